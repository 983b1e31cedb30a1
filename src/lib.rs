#![doc = include_str!("ARCHITECTURE.md")]
#![deny(unsafe_code)]

pub mod limits;
