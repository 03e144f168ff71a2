use std::{fmt, net::Ipv6Addr, str::FromStr};

/// Where a witness that others run takes requests: a URL prefix, to which `/add-checkpoint` is appended
/// (<https://c2sp.org/tlog-witness>). It is `https`, or `http` to this machine itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessUrl {
    is_https: bool,
    host: String,
    port: Option<u16>,
    path: String,
}

/// Text is not a URL prefix that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WitnessUrlError {
    /// Not `https://` or `http://`, a host, perhaps a port, and a path without query, fragment or slash at its end.
    #[error("not a URL prefix: https://HOST[:PORT][/PATH]")]
    Syntax,
    /// What everybody on the way could read and change.
    #[error("http is for this machine alone: use https")]
    Insecure,
}

impl WitnessUrl {
    /// The most bytes that it may have.
    pub const MAX_BYTES: usize = 256;

    /// Whether it is asked over TLS.
    pub fn is_https(&self) -> bool {
        self.is_https
    }

    /// The host, as its certificate bears it: a name in lower case, or an address.
    pub fn host(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    /// Host and port to connect to, `<host>:<port>`.
    pub fn address(&self) -> String {
        let usual = if self.is_https { 443 } else { 80 };
        format!("{}:{}", self.host, self.port.unwrap_or(usual))
    }

    /// What stands before the paths of the protocol: empty, or with a slash at its beginning and none at its end.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for WitnessUrl {
    type Err = WitnessUrlError;

    fn from_str(text: &str) -> Result<Self, WitnessUrlError> {
        let url = parse(text).ok_or(WitnessUrlError::Syntax)?;
        match url.is_https || is_this_machine(url.host()) {
            true => Ok(url),
            false => Err(WitnessUrlError::Insecure),
        }
    }
}

impl fmt::Display for WitnessUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.path)
    }
}

/// In the one way to write it.
fn parse(text: &str) -> Option<WitnessUrl> {
    if text.len() > WitnessUrl::MAX_BYTES {
        return None;
    }
    let (scheme, rest) = text.split_once("://")?;
    let is_https = match scheme {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at_checked(at)?,
        None => (rest, ""),
    };
    // The colons of an IPv6 address are within its brackets.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(parse_port(port)?)),
        _ => (authority, None),
    };
    let url = WitnessUrl {
        is_https,
        host: host.to_owned(),
        port,
        path: path.to_owned(),
    };
    (is_host(host) && is_path(path)).then_some(url)
}

fn parse_port(text: &str) -> Option<u16> {
    let port: u16 = text.parse().ok()?;
    (port != 0 && port.to_string() == text).then_some(port)
}

fn is_host(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return address
            .parse()
            .is_ok_and(|parsed: Ipv6Addr| parsed.to_string() == address);
    }
    let fits = |c| matches!(c, 'a'..='z' | '0'..='9' | '-' | '.');
    !text.is_empty() && text.chars().all(fits)
}

fn is_path(text: &str) -> bool {
    let fits = |c| matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' | '_' | '~' | '/');
    !text.ends_with('/') && text.chars().all(fits)
}

fn is_this_machine(host: &str) -> bool {
    let address: Result<std::net::IpAddr, _> = host.parse();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prefix_is_taken_apart() {
        for (text, host, address, path) in [
            (
                "https://witness.example",
                "witness.example",
                "witness.example:443",
                "",
            ),
            (
                "https://witness.example:8443/a/B-1",
                "witness.example",
                "witness.example:8443",
                "/a/B-1",
            ),
            ("http://127.0.0.1:7380", "127.0.0.1", "127.0.0.1:7380", ""),
            ("http://localhost/w", "localhost", "localhost:80", "/w"),
            (
                "https://[2001:db8::1]/w",
                "2001:db8::1",
                "[2001:db8::1]:443",
                "/w",
            ),
            ("http://[::1]:7380", "::1", "[::1]:7380", ""),
        ] {
            let url: WitnessUrl = text.parse().unwrap();
            let parts = (url.host(), url.address(), url.path());
            assert_eq!(parts, (host, address.to_owned(), path), "{text}");
            assert_eq!(url.is_https(), text.starts_with("https"));
            assert_eq!(url.to_string(), text);
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for text in [
            "",
            "witness.example",
            "ftp://witness.example",
            "HTTPS://witness.example",
            "https://",
            "https:///w",
            "https://Witness.example",
            "https://user@witness.example",
            "https://witness.example/",
            "https://witness.example/w/",
            "https://witness.example/w?x=1",
            "https://witness.example/w#x",
            "https://witness.example/a b",
            "https://witness.example/a\r\nHost: b",
            "https://witness.example:0",
            "https://witness.example:0443",
            "https://witness.example:65536",
            "https://witness.example:",
            "https://[::1",
            "https://[0::1]",
            "https://::1",
        ] {
            assert_eq!(
                text.parse::<WitnessUrl>(),
                Err(WitnessUrlError::Syntax),
                "{text}"
            );
        }
        let long = format!("https://{}", "a".repeat(WitnessUrl::MAX_BYTES));
        assert_eq!(long.parse::<WitnessUrl>(), Err(WitnessUrlError::Syntax));
        for text in [
            "http://witness.example",
            "http://192.0.2.1:80",
            "http://127.0.0.1.example",
            "http://[2001:db8::1]",
        ] {
            assert_eq!(
                text.parse::<WitnessUrl>(),
                Err(WitnessUrlError::Insecure),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn parse_of_arbitrary_text_never_panics(
            text in "(https?://)?([a-z0-9:/.@?#\\[\\]é-]|::1|localhost){0,12}"
        ) {
            if let Ok(url) = text.parse::<WitnessUrl>() {
                prop_assert_eq!(url.to_string(), text);
            }
        }
    }
}
