//! What a verification has found, each with a sentence that says what it is and what it costs.

use std::fmt;
use std::path::PathBuf;

use crate::disktable::format::MarkDamage;
use crate::record::Damage;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is wrong: it is only worth knowing.
    Note,
    /// Bytes are not what was written, or are gone.
    Damage,
    /// The same, and no server starts until something is done.
    RefusesStart,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where: the superblock, a table, another file.
    pub path: PathBuf,
    /// The table's slot, if it is one.
    pub slot: Option<u32>,
    /// What.
    pub what: Found,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The superblock is missing or damaged; the sentence of a start.
    Superblock(String),
    /// One copy of the superblock is missing or damaged.
    SuperblockCopy(String),
    /// A piece of a checkpoint of the index is not what was written.
    Checkpoint(String),
    /// The directory of the shard is missing, or cannot be listed.
    NoShard(String),
    /// There are tables of a higher number, or the checkpoint names it, and it is not there.
    Missing {
        /// The checkpoint has records in it; without one, nobody knows.
        is_named: bool,
    },
    /// The file, or a part of it, cannot be read where it says what it is.
    Unreadable(String),
    /// Bytes that cannot be read, `size` of them at `offset`.
    UnreadablePart {
        /// Where in the file.
        offset: u64,
        /// How many.
        size: u64,
        /// What the system says.
        why: String,
    },
    /// A table of this store under a name that no start looks for.
    Misnamed {
        /// The name that it should have.
        name: String,
    },
    /// No file of ours.
    Stray,
    /// A table file that was being made when the program ended: nothing was ever in it.
    HalfMade,
    /// The file has fewer bytes than a table.
    Short {
        /// Bytes that it has.
        size: u64,
        /// Bytes of a table.
        wanted: u64,
    },
    /// The file has more bytes than a table.
    Long {
        /// Bytes that it has.
        size: u64,
        /// Bytes of a table.
        wanted: u64,
    },
    /// It says that it is another table, or one of another store.
    Foreign {
        /// The slot that it says, if it is of this store.
        slot: Option<u32>,
    },
    /// Neither header nor trailer can be used.
    NoMark {
        /// What is wrong with the header.
        why: MarkDamage,
        /// Whole records that are in it all the same, as far as they can be found.
        record_count: u64,
    },
    /// The header is damaged, and the trailer is not.
    Header(MarkDamage),
    /// The trailer is damaged or missing.
    Trailer(MarkDamage),
    /// The trailer says what cannot be.
    TrailerSense,
    /// Pages of the footer are damaged.
    Footer {
        /// How many.
        damaged_count: usize,
        /// Of how many.
        count: usize,
    },
    /// Summaries of the footer are not those of their records.
    Summaries {
        /// How many.
        count: u64,
        /// Offset of the first such record.
        first: u32,
    },
    /// Records are damaged.
    Records {
        /// How many.
        count: u64,
        /// The first of them: where they lie, and what is wrong with them.
        first: Vec<(u32, Damage)>,
    },
    /// There are whole records that no summary names.
    Unnamed {
        /// How many.
        count: u64,
    },
    /// Bytes where neither a record nor the space between two is.
    Garbage {
        /// In how many places.
        count: u64,
        /// Offset of the first.
        first: u32,
    },
    /// The records of a table without a trailer end with bytes that are none, and others follow.
    Torn {
        /// Where they end.
        offset: u32,
        /// Whole records behind that.
        behind: u64,
        /// Whether a write that a power cut has torn cannot be the reason.
        is_damage: bool,
    },
    /// The table was being written when the store was stopped, and not cleanly.
    Open {
        /// Records that are found in it.
        record_count: u64,
        /// Where they end.
        end: u32,
    },
}

impl Finding {
    /// How much it matters.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match &self.what {
            Found::Superblock(_) | Found::Unreadable(_) => Severity::RefusesStart,
            Found::Stray
            | Found::HalfMade
            | Found::Unnamed { .. }
            | Found::Open { .. }
            | Found::Long { .. }
            | Found::Torn { is_damage: false, .. } => Severity::Note,
            _ => Severity::Damage,
        }
    }

    /// Whether records are gone that nobody can count: nothing is left of them, or nothing says which they were.
    #[must_use]
    pub fn hides_records(&self) -> bool {
        matches!(
            self.what,
            Found::Missing { .. }
                | Found::Unreadable(_)
                | Found::Misnamed { .. }
                | Found::Short { .. }
                | Found::Foreign { .. }
                | Found::NoMark { .. }
        )
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The sentences of a start name the file themselves.
        if !matches!(self.what, Found::Superblock(_) | Found::NoShard(_)) {
            write!(formatter, "{}: ", self.path.display())?;
        }
        write!(formatter, "{}", self.what)
    }
}

fn plural(count: u64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

impl fmt::Display for Found {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.of_file().unwrap_or_else(|| self.of_contents()))
    }
}

impl Found {
    /// What is wrong with a file as a whole, if that is it.
    fn of_file(&self) -> Option<String> {
        Some(match self {
            Self::Superblock(sentence) | Self::NoShard(sentence) => sentence.clone(),
            Self::SuperblockCopy(why) => {
                format!("{why}. The other copy is used, and the next start writes this one again")
            }
            Self::Checkpoint(why) => {
                format!(
                    "{why}. It counts for nothing: the next start builds the index from the tables, which takes longer"
                )
            }
            Self::Missing { is_named: true } => {
                "this table is missing, and the checkpoint of the index has records in it: they are lost".to_owned()
            }
            Self::Missing { is_named: false } => {
                "this table is missing, while there are some of higher numbers. The records \
                in it are lost, unless the capacity was lowered, when tables are removed"
                    .to_owned()
            }
            Self::Unreadable(why) => format!(
                "it cannot be read where it says what it is ({why}). No server starts while that is so, as its records \
                    would come back later over newer ones. Removing the file gives up its records"
            ),
            Self::UnreadablePart { offset, size, why } => {
                format!("{size} bytes at offset {offset} cannot be read: {why}")
            }
            Self::Misnamed { name } => format!(
                "this is a table of the store under another name, and no start looks for it: rename it to {name}, if there \
                    is no such file"
            ),
            Self::Stray => "this is no file of the store, and is left alone".to_owned(),
            Self::HalfMade => {
                "a table that was being made when the program ended; nothing was ever in it, and the next \
                start removes it"
                    .to_owned()
            }
            Self::Short { size, wanted } => format!("{size} bytes long instead of {wanted}: what was behind is lost"),
            Self::Long { size, wanted } => format!("{size} bytes long instead of {wanted}: what is behind is not used"),
            Self::Foreign { slot: Some(slot) } => format!(
                "this is a copy of table {slot} under this name, and the next start leaves it alone: remove it to get its \
                    space back. What this table had is lost"
            ),
            Self::Foreign { slot: None } => "this is a table of another store or of another size, and the next start \
                leaves it alone: remove it to get its space back"
                .to_owned(),
            Self::NoMark { why, record_count } => format!(
                "neither its header nor its trailer can be used ({why}), and the next start leaves the file alone: what is \
                    in it is lost, {} that could be found with it",
                plural(*record_count, "whole record", "whole records")
            ),
            _ => return None,
        })
    }

    /// What is wrong in a table.
    fn of_contents(&self) -> String {
        match self {
            Self::Header(why) => format!("its header is damaged ({why}); the trailer stands in for it"),
            Self::Trailer(why) => {
                format!(
                    "its trailer is damaged or missing ({why}): the next start finds the records by scanning the table"
                )
            }
            Self::TrailerSense => "its trailer says what cannot be".to_owned(),
            Self::Footer { damaged_count, count } => format!(
                "{damaged_count} of {} of its footer {} damaged: the next start scans the table",
                plural(*count as u64, "page", "pages"),
                if *damaged_count == 1 { "is" } else { "are" }
            ),
            Self::Summaries { count, first } => format!(
                "{} in its footer {} not fit the record, the first the one at offset {first}",
                plural(*count, "summary", "summaries"),
                if *count == 1 { "does" } else { "do" }
            ),
            Self::Records { count, first } => {
                let places: Vec<String> =
                    first.iter().map(|(offset, damage)| format!("at offset {offset}: {damage}")).collect();
                let more = if *count > first.len() as u64 { "; ..." } else { "" };
                let verb = if *count == 1 { "is" } else { "are" };
                let count = plural(*count, "record", "records");
                format!("{count} {verb} damaged ({}{more})", places.join("; "))
            }
            Self::Unnamed { count } => format!(
                "{} not named by the footer: a write failed when they were written, and they count as never written",
                plural(*count, "record is", "records are")
            ),
            Self::Garbage { count, first } => format!(
                "bytes have changed where no record is, in {}, the first at offset {first}: no record is lost by that",
                plural(*count, "place", "places")
            ),
            Self::Torn { offset, behind, is_damage: false } => format!(
                "its records end at offset {offset} in a write that was torn, as far as can be told; {} of that write not \
                    found by the next start",
                plural(*behind, "whole record is", "whole records are")
            ),
            Self::Torn { offset, behind, is_damage: true } => format!(
                "what lies at offset {offset} is damaged, and the table has no footer: the next start finds the {} behind it, \
                    and writes nothing more to the table",
                plural(*behind, "whole record", "whole records"),
            ),
            Self::Open { record_count, end } => format!(
                "was being written when the store was stopped, not cleanly; {} found in it, up to offset {end}",
                plural(*record_count, "record is", "records are")
            ),
            // The others are about a file.
            _ => String::new(),
        }
    }
}
