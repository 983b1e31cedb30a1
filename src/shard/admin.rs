//! Commands about the server.

use std::cell::Cell;
use std::time::Duration;

use super::watch::refusal;
use super::{After, Answers, Executed, Shard};
use crate::clock::ClockChange;
use crate::io::Io;
use crate::limits::MIB;
use crate::protocol::{Admin, AdminAnswer, Classes, TimeChange};

/// What clients take for memcached's crawler, beside that of the store.
#[derive(Debug, Default)]
pub(super) struct Crawler {
    /// It lists keys for somebody.
    pub(super) is_busy: Cell<bool>,
}

impl<I: Io> Shard<I> {
    pub(super) fn administer<'a>(&self, admin: Admin, answers: &mut impl Answers<I::File>) -> Executed<'a, I::File> {
        let answer = match admin {
            Admin::Answered { noreply: true, .. } => return Executed::Done(After::Continue),
            Admin::Answered { answer, noreply: false } => answer,
            Admin::EnableCrawler(enable) => self.enable_crawler(enable),
            Admin::Crawl(classes) => self.crawl(classes),
            Admin::CrawlerSleep { micros } => {
                self.store.set_crawl_pause(Duration::from_micros(micros.into()));
                AdminAnswer::Ok
            }
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
            Admin::Recache { is_enabled, noreply } => {
                self.store.enable_cache(is_enabled);
                if noreply {
                    return Executed::Done(After::Continue);
                }
                AdminAnswer::Ok
            }
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

    fn enable_crawler(&self, enable: bool) -> AdminAnswer {
        let was_enabled = self.store.is_crawler_enabled();
        self.store.enable_crawler(enable);
        if enable && was_enabled { AdminAnswer::CrawlerNotStarted } else { AdminAnswer::Ok }
    }

    /// Has the store look for expired records now: in all classes, as there is one.
    fn crawl(&self, classes: Classes) -> AdminAnswer {
        match classes {
            _ if !self.store.is_crawler_enabled() => AdminAnswer::CrawlerDisabled,
            Classes::Bad => AdminAnswer::BadClass,
            _ if self.crawler.is_busy.get() => AdminAnswer::CrawlerBusy,
            Classes::None => AdminAnswer::NothingToCrawl,
            Classes::Hash => AdminAnswer::CrawlerFailed,
            Classes::Others => AdminAnswer::Ok,
            Classes::All => {
                self.store.crawl();
                AdminAnswer::Ok
            }
        }
    }
}
