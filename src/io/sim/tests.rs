//! The simulated device keeps what it promises and nothing else.

use super::*;

const SIZE: usize = 4 * PAGE_SIZE;

fn path() -> PathBuf {
    PathBuf::from("/file")
}

fn buffer(byte: u8) -> Rc<dma_alloc::Buffer> {
    let mut buffer = dma_alloc::Buffer::zeroed(PAGE_SIZE);
    buffer.fill(byte);
    Rc::new(buffer)
}

fn world(seed: u64, sector: Sector) -> Sim {
    Sim::with(seed, SimOptions { capacity: 1 << 20, sector, is_shuffled: true, slow_period: 0 })
}

async fn made(sim: &Sim) -> SimFile {
    let file = sim.create(&path(), SIZE as u64).await.expect("there is room");
    file.sync().await.expect("the disk works");
    file
}

/// The bytes of the file's first page after a power cut, one for each sector.
fn cut(sim: &Sim) -> Vec<u8> {
    let after = sim.power_cut();
    let bytes = after.read_small(&path()).expect("readable").expect("it was synced");
    bytes[..PAGE_SIZE].chunks(512).map(|sector| sector[7]).collect()
}

#[test]
fn a_sync_covers_what_had_ended_and_a_power_cut_takes_any_of_the_rest() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 1..400 {
        let sim = world(seed, Sector::Small);
        sim.run(async {
            let file = made(&sim).await;
            file.write_at(0, PAGE_SIZE, buffer(1)).await.expect("the disk works");
            assert_eq!(sim.after_kill().power_cut().paths(), [path()]);
            file.sync().await.expect("the disk works");
            assert_eq!(cut(&sim), [1; 8], "stable");
            file.write_at(0, PAGE_SIZE, buffer(2)).await.expect("the disk works");
            file.write_at(0, PAGE_SIZE, buffer(3)).await.expect("the disk works");
            let (page, _) = file.read_at(0, PAGE_SIZE, dma_alloc::Buffer::zeroed(PAGE_SIZE)).await.expect("works");
            assert_eq!(page[7], 3, "a read finds what was written");
            assert!(sim.after_kill().read_small(&path()).expect("readable").expect("there")[..PAGE_SIZE] == page[..]);
            seen.extend(cut(&sim));
            file.write_stable_at(0, PAGE_SIZE, buffer(4)).await.expect("the disk works");
            assert_eq!(cut(&sim), [4; 8], "stable without a sync");
        });
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn whole_pages_are_seldom_torn_and_small_sectors_often() {
    let torn = |sector| {
        let is_torn = |seed| {
            let sim = world(seed, sector);
            let bytes = sim.run(async {
                let file = made(&sim).await;
                file.write_at(0, PAGE_SIZE, buffer(9)).await.expect("the disk works");
                cut(&sim)
            });
            bytes.iter().any(|byte| *byte != bytes[0])
        };
        (1..400).filter(|seed| is_torn(*seed)).count()
    };
    let (pages, small) = (torn(Sector::Page), torn(Sector::Small));
    assert!((5..60).contains(&pages) && (150..390).contains(&small), "{pages} and {small} of 399");
}

#[test]
fn what_a_failed_sync_was_to_cover_is_never_stable() {
    let mut lost = 0;
    for seed in 1..100 {
        let sim = world(seed, Sector::Page);
        lost += usize::from(sim.run(async {
            let file = made(&sim).await;
            file.write_at(0, PAGE_SIZE, buffer(1)).await.expect("the disk works");
            sim.schedule(vec![Fault { after: 0, kind: FaultKind::SyncError }]);
            assert!(file.sync().await.is_err());
            file.sync().await.expect("the fault has passed");
            cut(&sim)[0] == 0
        }));
        assert_eq!(sim.happened().len(), 1);
    }
    assert!((20..80).contains(&lost), "{lost}");
}

#[test]
fn a_new_file_is_sure_to_be_there_after_its_first_sync() {
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 1..200 {
        let sim = world(seed, Sector::Page);
        sim.run(async {
            let file = sim.create(&path(), SIZE as u64).await.expect("there is room");
            let length = |sim: &Sim| sim.read_small(&path()).expect("readable").map(|bytes| bytes.len());
            lengths.insert(length(&sim.power_cut()));
            file.sync().await.expect("the disk works");
            assert_eq!(length(&sim.power_cut()), Some(SIZE));
        });
    }
    assert!(lengths.contains(&None) && lengths.contains(&Some(0)) && lengths.contains(&Some(SIZE)), "{lengths:?}");
}

#[test]
fn writes_get_lost_go_astray_and_rot_when_the_schedule_says_so() {
    let sim = world(5, Sector::Page);
    sim.run(async {
        let file = made(&sim).await;
        let first_bytes = || async {
            let (pages, count) = file.read_at(0, SIZE, dma_alloc::Buffer::zeroed(SIZE)).await.expect("works");
            pages[..count].chunks(PAGE_SIZE).map(|page| page[0]).collect::<Vec<_>>()
        };
        sim.schedule(vec![Fault { after: 2, kind: FaultKind::LostWrite }]);
        file.write_at(0, PAGE_SIZE, buffer(1)).await.expect("the disk works");
        file.write_at(0, PAGE_SIZE, buffer(2)).await.expect("it says so");
        assert_eq!(first_bytes().await, [1, 0, 0, 0]);
        sim.schedule(vec![Fault { after: 0, kind: FaultKind::MisdirectedWrite(2) }]);
        file.write_at(0, PAGE_SIZE, buffer(3)).await.expect("it says so");
        assert_eq!(first_bytes().await, [1, 0, 3, 0]);
        sim.schedule(vec![Fault { after: 0, kind: FaultKind::Rot(1) }]);
        assert_eq!(first_bytes().await, [3, 0, 3, 0]);
        sim.schedule(vec![Fault { after: 0, kind: FaultKind::BadPage(1) }]);
        assert!(file.read_at(0, SIZE, dma_alloc::Buffer::zeroed(SIZE)).await.is_err());
        file.write_at(PAGE_SIZE as u64, PAGE_SIZE, buffer(4)).await.expect("the disk works");
        assert_eq!(first_bytes().await, [3, 4, 3, 0]);
    });
    assert_eq!(sim.happened().len(), 4);
}

#[test]
fn a_stall_holds_everything_up_and_the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let sim = world(seed, Sector::Page);
        sim.run(async {
            let file = made(&sim).await;
            sim.schedule(vec![Fault { after: 0, kind: FaultKind::Stall(Duration::from_secs(7)) }]);
            let begun = sim.monotonic();
            file.write_at(0, PAGE_SIZE, buffer(1)).await.expect("the disk works");
            assert!(sim.monotonic() - begun >= Duration::from_secs(7));
        });
        sim.end();
        sim.monotonic()
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(5));
}
