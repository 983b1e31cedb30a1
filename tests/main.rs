//! Black-box tests: a real `dmacached` on a real disk, asked through its socket, killed by signals, with its files
//! cut and flipped.
//!
//! One binary, one module per subject. `support` starts servers and speaks the text protocol; nothing in here knows
//! how the server works inside, except `brokenworld`, which damages its files, and `tidy`, which reads its source.

#![allow(clippy::unwrap_used, reason = "a failed step of a test is a failed test, and the panic says where")]

mod admin;
mod allocations;
mod backup;
mod badinput;
mod brokenworld;
mod churn;
mod commands;
mod connections;
mod conversation;
mod diskreads;
mod dump;
mod durability;
mod eviction;
mod flags;
mod hotcache;
mod listeners;
mod memlock;
mod meta;
mod model;
mod persistence;
mod pipelines;
mod readme;
mod scrub;
mod stats;
mod support;
mod tidy;
mod verify;
mod watch;
