//! memcached's `-o`: a list of options by name.

use std::time::Duration;

/// What `-o` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extended {
    /// Connections that say nothing for so long are closed.
    pub(super) idle_timeout: Option<Duration>,
}

/// An option of `-o` that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadExtended {
    #[error("-o {0}: there is no such option; idle_timeout=SECONDS and maxconns_fast are there")]
    Unknown(String),
    #[error("-o idle_timeout={0}: a number of seconds is needed, 0 for never")]
    IdleTimeout(String),
    #[error("-o no_maxconns_fast: connections above -c are always answered and closed at once")]
    NoMaxconnsFast,
}

impl Extended {
    /// Reads the lists in order; the last word wins.
    pub(super) fn parse(lists: &[String]) -> Result<Self, BadExtended> {
        let mut extended = Self::default();
        for option in lists.iter().flat_map(|list| list.split(',')).filter(|option| !option.is_empty()) {
            match option.split_once('=').unwrap_or((option, "")) {
                ("idle_timeout", seconds) => {
                    let parsed = seconds.parse::<u32>().map_err(|_| BadExtended::IdleTimeout(seconds.to_owned()))?;
                    extended.idle_timeout = (parsed > 0).then(|| Duration::from_secs(parsed.into()));
                }
                ("maxconns_fast", "") => {}
                ("no_maxconns_fast", "") => return Err(BadExtended::NoMaxconnsFast),
                _ => return Err(BadExtended::Unknown(option.to_owned())),
            }
        }
        Ok(extended)
    }
}
