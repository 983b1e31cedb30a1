//! Meta commands: what the differential test cannot compare, because memcached 1.6.18 does not know it or forgets it at its end.

use crate::support::{Client, Server, Store};

/// Where the records are when they are asked for.
const WORLDS: [World; 3] = [World::Memory, World::Disk, World::Restarted];

#[derive(Clone, Copy, Debug, PartialEq)]
enum World {
    Memory,
    Disk,
    Restarted,
}

/// A store, and a server and client that go on elsewhere when they are told to.
struct Stage {
    store: Store,
    server: Option<Server>,
    world: World,
}

impl Stage {
    fn new(world: World) -> Self {
        let store = Store::new(&["--debug-commands"]);
        let server = Some(store.start());
        Self { store, server, world }
    }

    fn client(&self) -> Client {
        self.server.as_ref().expect("it runs").client()
    }

    /// Brings the records to where they are to be.
    fn move_on(&mut self) {
        match self.world {
            World::Memory => {}
            World::Disk => assert_eq!(self.client().ask("debugflush"), "OK"),
            World::Restarted => {
                self.server.take().expect("it runs").terminate();
                self.server = Some(self.store.start());
            }
        }
    }

    /// Asks one request after the other, moving on before each.
    fn asks(&mut self, pairs: &[(&str, &str)]) {
        for (request, expected) in pairs {
            self.move_on();
            let answer = self.client().exchange(format!("{request}\r\n").as_bytes());
            let answer = String::from_utf8_lossy(&answer).into_owned();
            let expected = if expected.is_empty() { String::new() } else { format!("{expected}\r\n") };
            assert_eq!(answer, expected, "{request} in {:?}", self.world);
        }
    }
}

#[test]
fn what_meta_commands_know_of_an_item_survives_wherever_it_lies() {
    for world in WORLDS {
        let mut stage = Stage::new(world);
        stage.asks(&[
            ("ms Zm9v 3 b T1000 F77 c E123\r\nabc", "HD c123"),
            ("mg foo k f c s v", "VA 3 kZm9v b f77 c123 s3\r\nabc"),
            ("md foo I E124", "HD"),
            ("mg foo c v", "VA 3 c124 X W\r\nabc"),
            ("mg foo c v", "VA 3 c124 Z X\r\nabc"),
            ("mg foo c", "HD c124 Z X"),
            ("ms foo 1 I C5\r\nd", "HD"),
            ("mg foo v f", "VA 1 f0 Z X\r\nd"),
            ("md foo I", "HD"),
            ("mg foo v R2000", "VA 1 X W\r\nd"),
            ("ms foo 3\r\nnew", "HD"),
            ("mg foo v f k", "VA 3 f0 kfoo\r\nnew"),
            ("mg foo T500", "HD"),
            ("mg foo R400", "HD"),
            ("mg foo R600 v", "VA 3 W\r\nnew"),
            ("mg foo R600 v", "VA 3 Z\r\nnew"),
        ]);
    }
}

#[test]
fn the_flags_that_came_after_1_6_18_work() {
    for world in WORLDS {
        let mut stage = Stage::new(world);
        stage.asks(&[
            ("ms k 2 E7 c s b\r\n12", "CLIENT_ERROR error decoding key"),
            ("ms k 2 E7 c s\r\n12", "HD c7 s2"),
            ("mg k v C7 c", "HD c7"),
            ("mg k v C8 c", "VA 2 c7\r\n12"),
            ("ma k E9 v c", "VA 2 c9\r\n13"),
            ("ma k C7", "EX"),
            ("ma k C9 E10", "HD"),
            ("gets k", "VALUE k 0 2 10\r\n14\r\nEND"),
            ("ms k 1 MA E11\r\n0", "HD"),
            ("mg k v c", "VA 3 c11\r\n140"),
            ("ms absent 1 MA N100\r\nx", "HD"),
            ("ms absent 1 MP N100 I\r\nw", "HD"),
            ("mg absent v", "VA 2\r\nwx"),
            ("ms k 1 F5 E12\r\nz", "HD"),
            ("md k C12 x E13", "HD"),
            ("mg k v f c", "VA 0 f0 c13\r\n"),
            ("md k C12", "EX"),
            ("md k C13 q", ""),
            ("mg k v q", ""),
            ("mg k N0 E99 c", "HD c99 W"),
            ("mg k c", "HD c99 Z"),
        ]);
    }
}

#[test]
fn one_of_many_who_fetch_a_stale_item_is_told_to_fetch_it_anew() {
    for world in WORLDS {
        let mut stage = Stage::new(world);
        for round in 0..20 {
            stage.asks(&[("ms k 3\r\nold", "HD"), ("md k I", "HD")]);
            stage.move_on();
            let mut clients: Vec<Client> = (0..16).map(|_| stage.client()).collect();
            clients.iter_mut().for_each(|client| client.send(b"mg k v\r\nmg k v\r\nmn\r\n"));
            let mut lines: Vec<String> = Vec::new();
            for client in &mut clients {
                for _ in 0..2 {
                    lines.push(client.line());
                    assert_eq!(client.line(), "old");
                }
                assert_eq!(client.line(), "MN");
            }
            let winners = lines.iter().filter(|line| *line == "VA 3 X W").count();
            let losers = lines.iter().filter(|line| *line == "VA 3 Z X").count();
            assert_eq!((winners, losers), (1, 31), "round {round} in {world:?}: {lines:?}");
        }
    }
}

#[test]
fn two_writes_of_one_record_on_disk_have_an_order() {
    let stage = Stage::new(World::Disk);
    let (mut counting, mut setting) = (stage.client(), stage.client());
    let mut outcomes = [0; 2];
    for _ in 0..200 {
        counting.set("n", b"10");
        assert_eq!(counting.ask("debugflush"), "OK");
        counting.send(b"incr n 5\r\n");
        setting.send(b"set n 0 0 3\r\n100\r\n");
        let (counted, stored) = (counting.line(), setting.line());
        assert_eq!(stored, "STORED");
        let value = counting.get("n").expect("it is there");
        match (counted.as_str(), value.as_slice()) {
            ("15", b"100") => outcomes[0] += 1,
            ("105", b"105") => outcomes[1] += 1,
            other => panic!("no order of the two gives {other:?}"),
        }
    }
    assert_eq!(outcomes.iter().sum::<i32>(), 200, "{outcomes:?}");
}
