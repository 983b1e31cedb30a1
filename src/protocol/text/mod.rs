//! memcached's text protocol ("classic" commands): [`parse`] reads requests, [`encode`] writes answers, [`token`]
//! splits lines.

pub mod admin;
pub mod ahead;
pub mod auth;
pub mod dump;
pub mod encode;
pub mod parse;
pub mod token;

#[cfg(test)]
mod tests;
