//! Commands about the server.

use std::cell::Cell;

use super::watch::refusal;
use super::{After, Answers, Executed, Shard};
use crate::clock::ClockChange;
use crate::io::Io;
use crate::limits::MIB;
use crate::protocol::{Admin, AdminAnswer, Classes, TimeChange};

/// What clients take for memcached's crawler.
#[derive(Debug)]
pub(super) struct Crawler {
    pub(super) is_enabled: Cell<bool>,
    /// It lists keys for somebody.
    pub(super) is_busy: Cell<bool>,
}

impl Default for Crawler {
    fn default() -> Self {
        Self { is_enabled: Cell::new(true), is_busy: Cell::default() }
    }
}

impl<I: Io> Shard<I> {
    pub(super) fn administer<'a>(&self, admin: Admin, answers: &mut impl Answers<I::File>) -> Executed<'a, I::File> {
        let answer = match admin {
            Admin::Answered { noreply: true, .. } => return Executed::Done(After::Continue),
            Admin::Answered { answer, noreply: false } => answer,
            Admin::EnableCrawler(enable) => self.enable_crawler(enable),
            Admin::Crawl(classes) => self.crawl(classes),
            Admin::DebugTime(_) | Admin::DebugFlush if !self.facts.debug_commands => AdminAnswer::Error,
            Admin::DebugTime(None) => AdminAnswer::Error,
            Admin::DebugTime(Some(change)) => {
                self.store.change_clock(match change {
                    TimeChange::Pause => ClockChange::Pause,
                    TimeChange::Resume => ClockChange::Resume,
                    TimeChange::Shift(seconds) => ClockChange::Shift(seconds),
                });
                AdminAnswer::Ok
            }
            Admin::DebugFlush => match self.store.try_forget_memory() {
                Ok(()) => AdminAnswer::Ok,
                Err(obstacle) => return Executed::Blocked(obstacle),
            },
            Admin::Shutdown { .. } if !self.facts.shutdown_enabled => AdminAnswer::ShutdownNotEnabled,
            Admin::Shutdown { is_valid: false } => AdminAnswer::ShutdownMode,
            Admin::Shutdown { is_valid: true } => return Executed::Done(After::ShutDown),
            Admin::Dump(style, classes) => match self.begin_dump(style, classes, answers) {
                Ok(after) => return Executed::Done(after),
                Err(refusal) => refusal,
            },
            Admin::Watch { topics, noreply } => match refusal(self.facts.watch_enabled, answers.is_idle(), topics) {
                Ok(topics) => return Executed::Done(After::Watch(topics)),
                Err(_) if noreply => return Executed::Done(After::Continue),
                Err(refusal) => refusal,
            },
            Admin::MemoryLimit { mebibytes, noreply } => {
                let is_changed = self.store.set_memory((mebibytes as usize).saturating_mul(MIB));
                if noreply {
                    return Executed::Done(After::Continue);
                }
                if is_changed { AdminAnswer::Ok } else { AdminAnswer::MemoryLimitNotAdjusted }
            }
        };
        answers.buffer().extend_from_slice(answer.line());
        Executed::Done(After::Continue)
    }

    /// Nothing runs that could be started or stopped; the answers are those of a crawler that does.
    fn enable_crawler(&self, enable: bool) -> AdminAnswer {
        let was_enabled = self.crawler.is_enabled.replace(enable);
        if enable && was_enabled { AdminAnswer::CrawlerNotStarted } else { AdminAnswer::Ok }
    }

    /// Expired records leave when they are met, and with their tables: there is nothing to be gained by looking for them.
    fn crawl(&self, classes: Classes) -> AdminAnswer {
        match classes {
            _ if !self.crawler.is_enabled.get() => AdminAnswer::CrawlerDisabled,
            Classes::Bad => AdminAnswer::BadClass,
            _ if self.crawler.is_busy.get() => AdminAnswer::CrawlerBusy,
            Classes::None => AdminAnswer::NothingToCrawl,
            Classes::Hash => AdminAnswer::CrawlerFailed,
            Classes::All | Classes::Others => AdminAnswer::Ok,
        }
    }
}
