//! Whether the simulator finds the bugs of `src/mutants.rs`: how many seeds each takes.

use std::time::Instant;

use dmacached::mutants::{Mutant, choose};

use crate::plan::{Mode, Plan};
use crate::shrink::try_plan;

/// Runs seeds with each bug until it is found, prints a table, and says whether all were found.
pub(crate) fn all_are_found(mode: Mode, start: u64, seeds: u64, only: Option<&str>) -> bool {
    let begun = Instant::now();
    let (mut count, mut found_count) = (0, 0);
    println!("{:22} {:>6}  what is seen", "mutant", "seeds");
    for mutant in Mutant::ALL {
        let name = format!("{mutant:?}");
        if only.is_some_and(|only| !name.eq_ignore_ascii_case(only)) {
            continue;
        }
        count += 1;
        choose(Some(mutant));
        let failed = |seed: &u64| try_plan(&Plan::new(*seed, mode), false).1.err();
        let found = (start..start + seeds).find_map(|seed| failed(&seed).map(|fault| (seed, fault)));
        choose(None);
        match found {
            Some((seed, fault)) => {
                found_count += 1;
                let text: String = fault.to_string().chars().take(150).collect();
                println!("{name:22} {:>6}  seed {seed}: {}", seed - start + 1, text.replace('\n', " "));
            }
            None => println!("{name:22} {:>6}  NOT FOUND", "-"),
        }
    }
    println!("{found_count} of {count} mutants found, {:.1} s", begun.elapsed().as_secs_f64());
    found_count == count
}
