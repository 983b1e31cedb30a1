//! The binary commands. What each must do and answer is in [`crate::protocol::binary`].

use super::get::{Fetch, Form, Stopped};
use super::meta::fetched;
use super::operations::{Attempt, Counted, Order, Outcome, Removal, Sum};
use super::{After, Answers, Executed, Shard};
use crate::io::Io;
use crate::limits::MEMCACHED_VERSION;
use crate::protocol::StoreVerb;
use crate::protocol::binary::encode::{
    encode_empty, encode_number, encode_stat, encode_status, encode_stored, encode_version,
};
use crate::protocol::binary::{BinaryReply, BinaryRequest, Command, Status};
use crate::store::{Changed, Held};

impl<I: Io> Shard<I> {
    pub(super) fn binary<'a>(
        &self,
        request: &BinaryRequest<'_>,
        held: Option<&Held<'_, I::File>>,
        answers: &mut impl Answers<I::File>,
    ) -> Executed<'a, I::File> {
        let BinaryRequest { reply, command } = *request;
        let result = match command {
            Command::Get { key, touch } => {
                let form = Form::Binary { reply, touches: touch.is_some(), with_value: true };
                self.fetch(key, &form, touch.map(|exptime| self.expiry(exptime)), answers)
            }
            Command::Touch { key, exptime } => {
                let form = Form::Binary { reply, touches: true, with_value: false };
                self.fetch(key, &form, Some(self.expiry(exptime)), answers)
            }
            Command::Quit => {
                encode_empty(answers.buffer(), reply);
                return Executed::Done(After::Close);
            }
            Command::Refused { status, closes } => {
                encode_status(answers.buffer(), reply, status);
                return Executed::Done(if closes { After::Close } else { After::Continue });
            }
            command => self.binary_at_once(reply, command, held, answers.buffer()),
        };
        fetched(result)
    }

    /// Commands that need not be read for, or are executed again when that is done.
    fn binary_at_once(
        &self,
        reply: BinaryReply,
        command: Command<'_>,
        held: Option<&Held<'_, I::File>>,
        out: &mut Vec<u8>,
    ) -> Fetch<I::File> {
        let outcome = match command {
            Command::Store { verb, key, flags, exptime, value, cas } => {
                let compare = (cas != 0 && self.facts.cas_enabled).then_some(cas);
                let order = Order {
                    verb: compare.map_or(verb, |unique| comparing(verb, unique)),
                    key,
                    value,
                    client_flags: flags,
                    expiry: self.expiry(exptime),
                    bits: 0,
                    compare,
                    own_cas: None,
                    may_be_stale: false,
                    vivify: None,
                };
                self.store_order(&order, held).map(|outcome| of_verb(verb, outcome))
            }
            Command::TooLarge { verb, key } => self.refuse_too_large(key, verb == StoreVerb::Set),
            Command::Delete { key, cas } => {
                let removal = Removal { compare: (cas != 0).then_some(cas), ..Removal::default() };
                // What is gone has no CAS unique.
                self.remove(key, removal, held).map(|outcome| match outcome {
                    Outcome::Done(_) => Outcome::Done(0),
                    outcome => outcome,
                })
            }
            Command::Arithmetic { .. } => return self.binary_count(reply, command, held, out).map_err(Stopped::At),
            Command::Flush { exptime } => {
                let flushed = self.flush_items(exptime).map_err(Stopped::At)?;
                match flushed {
                    Some(Changed::NoSpace) => encode_status(out, reply, Status::OutOfMemory),
                    Some(Changed::Failed) => encode_status(out, reply, Status::DiskWriteFailed),
                    Some(Changed::Done | Changed::NotFound) => encode_empty(out, reply),
                    None => encode_status(out, reply, Status::AuthFailure),
                }
                return Ok(());
            }
            Command::Stat { argument } => {
                self.binary_stat(reply, argument, out);
                return Ok(());
            }
            Command::Version => {
                encode_version(out, reply, MEMCACHED_VERSION);
                return Ok(());
            }
            Command::Noop => Ok(Outcome::Done(0)),
            Command::Get { .. } | Command::Touch { .. } | Command::Quit | Command::Refused { .. } => {
                unreachable!("the caller has taken these")
            }
        };
        let outcome = outcome.map_err(Stopped::At)?;
        match command {
            Command::Store { key, .. } | Command::TooLarge { key, .. } => self.prefixes.borrow_mut().record_set(key),
            Command::Delete { key, .. } => self.prefixes.borrow_mut().record_delete(key),
            _ => {}
        }
        match outcome {
            Outcome::Done(cas) => encode_stored(out, reply, cas),
            outcome => encode_status(out, reply, status(outcome)),
        }
        Ok(())
    }

    fn binary_count(
        &self,
        reply: BinaryReply,
        command: Command<'_>,
        held: Option<&Held<'_, I::File>>,
        out: &mut Vec<u8>,
    ) -> Attempt<(), I::File> {
        let Command::Arithmetic { direction, key, delta, initial, exptime, cas } = command else {
            unreachable!("the caller has looked")
        };
        let sum = Sum {
            key,
            delta,
            direction,
            compare: (cas != 0).then_some(cas),
            own_cas: None,
            initial: exptime.map(|exptime| (initial, self.expiry(exptime))),
            expiry: None,
            bits: 0,
        };
        match self.count_up_or_down(&sum, held)? {
            Counted::Number { number, cas, .. } => encode_number(out, reply, number, cas),
            Counted::NotNumeric => encode_status(out, reply, Status::NotNumeric),
            Counted::Not(outcome) => encode_status(out, reply, status(outcome)),
        }
        Ok(())
    }

    /// `STAT`: what the text command says, in packets, as far as memcached has it here.
    fn binary_stat(&self, reply: BinaryReply, argument: &[u8], out: &mut Vec<u8>) {
        let argument = match argument {
            b"" | b"items" | b"slabs" | b"sizes" => argument,
            _ if argument.starts_with(b"settings") => b"settings",
            _ if argument.starts_with(b"reset") => b"reset",
            b"detail on" | b"detail off" | b"detail dump" => argument,
            _ => return encode_status(out, reply, Status::NotFound),
        };
        let mut text = Vec::new();
        self.report(argument, &mut text);
        if argument == b"detail dump" {
            encode_stat(out, reply, "detailed", String::from_utf8_lossy(&text));
        } else {
            for line in text.split(|byte| *byte == b'\n') {
                let Some(line) = line.strip_prefix(b"STAT ") else { continue };
                let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
                let (name, value) = line.split_once(' ').unwrap_or((&line, ""));
                encode_stat(out, reply, name, value);
            }
        }
        encode_empty(out, reply);
    }
}

/// With a CAS unique, all that store a whole value are the same.
fn comparing(verb: StoreVerb, unique: u64) -> StoreVerb {
    match verb {
        StoreVerb::Append | StoreVerb::Prepend => verb,
        _ => StoreVerb::Cas(unique),
    }
}

/// What the status of storing depends on.
fn of_verb(verb: StoreVerb, outcome: Outcome) -> Outcome {
    match (verb, outcome) {
        (StoreVerb::Add, Outcome::NotStored) => Outcome::Exists,
        (StoreVerb::Replace, Outcome::NotStored) => Outcome::NotFound,
        (_, outcome) => outcome,
    }
}

fn status(outcome: Outcome) -> Status {
    match outcome {
        Outcome::Done(_) => unreachable!("that has no status"),
        Outcome::NotStored => Status::NotStored,
        Outcome::Exists => Status::Exists,
        Outcome::NotFound => Status::NotFound,
        Outcome::TooLarge => Status::TooLarge,
        Outcome::NoSpace => Status::OutOfMemory,
        Outcome::ReadFailed => Status::DiskReadFailed,
        Outcome::WriteFailed => Status::DiskWriteFailed,
    }
}
