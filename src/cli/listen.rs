//! `-p` and `-l`: where to listen, in memcached's notation.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use super::arguments::ServeArguments;
use super::check::BadFlag;
use crate::server::{Address, Endpoint};
use crate::shard::Binding;

/// What `-p` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// `-p 0`: no TCP.
    Off,
    /// `-p -1`: the system chooses one.
    Any,
    /// This one.
    Number(u16),
}

impl Port {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text.parse::<i64>() {
            Ok(-1) => Ok(Self::Any),
            Ok(0) => Ok(Self::Off),
            Ok(number) => u16::try_from(number).map(Self::Number).map_err(|_| no_port(text)),
            Err(_) => Err(no_port(text)),
        }
    }

    /// As bind(2) takes it.
    fn to_bind(self) -> u16 {
        match self {
            Self::Off | Self::Any => 0,
            Self::Number(number) => number,
        }
    }
}

fn no_port(text: &str) -> String {
    format!("{text:?} is no port: use 1 to 65535, -1 for one that is free, or 0 for no TCP")
}

impl ServeArguments {
    /// Where to listen: on the unix socket of `-s`, or on the addresses of `-l`, as memcached.
    pub(super) fn endpoints(&self) -> Result<Vec<Endpoint>, BadFlag> {
        match &self.network.unix_socket {
            Some(path) => {
                let address = Address::Unix(path.clone(), self.network.unix_permissions);
                Ok(vec![Endpoint { address, binding: self.binding() }])
            }
            None => self.tcp_endpoints(),
        }
    }

    /// The addresses of `-l`, with the port of `-p` where they have none.
    fn tcp_endpoints(&self) -> Result<Vec<Endpoint>, BadFlag> {
        let separator = |character| character == ',' || character == ';';
        let mut endpoints: Vec<Endpoint> = Vec::new();
        let lists = self.network.listen.iter().flat_map(|list| list.split(separator));
        for entry in lists.filter(|entry| !entry.is_empty()) {
            let (host, binding) = without_prefixes(entry)?;
            let binding = binding.unwrap_or_else(|| self.binding());
            if self.commands.auth_file.is_some() && binding != Binding::Ascii {
                return Err(BadFlag::AddressAuth(entry.to_owned()));
            }
            for resolved in resolve(entry, host, self.network.port.to_bind())? {
                let address = Address::Tcp(resolved);
                if !endpoints.iter().any(|endpoint| endpoint.address == address) {
                    endpoints.push(Endpoint { address, binding });
                }
            }
        }
        if endpoints.is_empty() {
            let address = self.network.listen.join(",");
            return Err(BadFlag::Address { address, why: "no address in it".to_owned() });
        }
        Ok(endpoints)
    }
}

/// Takes `notls:`, `proto[NAME]:` and `tag_NAME_:` off the front of an address.
fn without_prefixes(entry: &str) -> Result<(&str, Option<Binding>), BadFlag> {
    let bad = |why: &str| BadFlag::Address { address: entry.to_owned(), why: why.to_owned() };
    let (mut rest, mut binding) = (entry, None);
    loop {
        if let Some(behind) = rest.strip_prefix("notls:") {
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("tag_") {
            // The tag's name is for memcached's proxy.
            rest = behind.split_once("_:").ok_or_else(|| bad("a tag is written tag_NAME_:"))?.1;
        } else if let Some(behind) = rest.strip_prefix("proto[") {
            let (name, behind) = behind.split_once("]:").ok_or_else(|| bad("a protocol is written proto[NAME]:"))?;
            binding = Some(match name {
                "negotiating" => Binding::Auto,
                "ascii" => Binding::Ascii,
                "binary" => Binding::Binary,
                _ => return Err(bad("the protocols are ascii, binary and negotiating")),
            });
            rest = behind;
        } else if ["btls:", "mtls:"].iter().any(|prefix| rest.starts_with(prefix)) {
            return Err(bad("TLS is not served here; put a proxy that ends it in front"));
        } else {
            return Ok((rest, binding));
        }
    }
}

/// The addresses of `host`, which may have a port; `entry` is what the user wrote.
fn resolve(entry: &str, host: &str, port: u16) -> Result<Vec<SocketAddr>, BadFlag> {
    let bad = |why: String| BadFlag::Address { address: entry.to_owned(), why };
    if let Ok(address) = host.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    // As memcached, to which it means every interface.
    if bare == "*" {
        return Ok(vec![SocketAddr::new(IpAddr::from([0, 0, 0, 0]), port)]);
    }
    let resolved = match host.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| bad(format!("{port:?} is no port")))?).to_socket_addrs(),
        None => (host, port).to_socket_addrs(),
    };
    Ok(resolved.map_err(|error| bad(error.to_string()))?.collect())
}
