//! Where to listen: memcached's `-l` lists with their prefixes, names resolved to all their addresses. Opens nothing.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use super::arguments::Binding;

/// One address to listen on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listen {
    /// The address; port 0 is any free one.
    pub address: SocketAddr,
    /// Who speaks TLS there.
    pub tls: TlsUse,
    /// Which protocol is spoken there, if not that of all.
    pub protocol: Option<Binding>,
}

/// A `-l` prefix about TLS; without `-Z` there is none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum TlsUse {
    /// As `-Z` and `-o ssl_verify_mode` say.
    #[default]
    AsElsewhere,
    /// `notls:`, plain.
    Never,
    /// `btls:`, clients need no certificate.
    Basic,
    /// `mtls:`, clients must show a certificate.
    Mutual,
}

/// Longest tag of an address, in bytes, as memcached.
const TAG_BYTES_MAX: usize = 8;

/// All addresses of `lists`, each once, with `port` where none is given. The error names the word and what is wrong with it.
pub fn addresses(lists: &[String], port: u16) -> Result<Vec<Listen>, String> {
    let mut found: Vec<Listen> = Vec::new();
    for word in lists.iter().flat_map(|list| list.split([',', ';'])).filter(|word| !word.is_empty()) {
        for listen in resolve(word, port).map_err(|what| format!("-l {word}: {what}"))? {
            match found.iter().find(|known| known.address == listen.address && listen.address.port() != 0) {
                None => found.push(listen),
                Some(known) if *known == listen => {}
                Some(_) => return Err(format!("-l {word}: {} is given twice and not alike", listen.address)),
            }
        }
    }
    Ok(found)
}

fn resolve(word: &str, port: u16) -> Result<Vec<Listen>, String> {
    let (tls, rest) = tls_prefix(word);
    let (protocol, rest) = protocol_prefix(rest)?;
    let host = skip_tag(rest)?;
    let listen = |address| Listen { address, tls, protocol };
    Ok(look_up(host, port)?.into_iter().map(listen).collect())
}

fn tls_prefix(word: &str) -> (TlsUse, &str) {
    let prefixes = [("notls:", TlsUse::Never), ("btls:", TlsUse::Basic), ("mtls:", TlsUse::Mutual)];
    let stripped = prefixes.into_iter().find_map(|(prefix, tls)| Some((tls, word.strip_prefix(prefix)?)));
    stripped.unwrap_or((TlsUse::AsElsewhere, word))
}

fn protocol_prefix(word: &str) -> Result<(Option<Binding>, &str), String> {
    let Some(rest) = word.strip_prefix("proto[") else { return Ok((None, word)) };
    let (name, rest) = rest.split_once("]:").ok_or("proto[ is not closed by ]:")?;
    let protocol = match name {
        "ascii" => Binding::Ascii,
        "binary" => Binding::Binary,
        "negotiating" => Binding::Auto,
        "proxy" => return Err("this is no proxy".into()),
        _ => return Err(format!("proto[{name}] must be ascii, binary or negotiating")),
    };
    Ok((Some(protocol), rest))
}

/// Tags name listeners for a proxy's routes: nothing here asks for them.
fn skip_tag(word: &str) -> Result<&str, String> {
    let (tag, rest) = if let Some(rest) = word.strip_prefix("tag[") {
        rest.split_once("]:").ok_or("tag[ is not closed by ]:")?
    } else if let Some(rest) = word.strip_prefix("tag_") {
        rest.split_once("_:").ok_or("tag_ is not closed by _:")?
    } else {
        return Ok(word);
    };
    if !(1..=TAG_BYTES_MAX).contains(&tag.len()) {
        return Err(format!("a tag has 1 to {TAG_BYTES_MAX} characters"));
    }
    Ok(rest)
}

/// `host`, `host:port`, `address`, `[address]:port`, `*` or `*:port`; a link's own address names the link: `fe80::1%eth0`.
fn look_up(text: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let has_zone = bare.split_once('%').is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok());
    let (host, port) = match text.rsplit_once(':') {
        Some((host, digits)) if !has_zone || bare.contains(']') => {
            let port = digits.parse().map_err(|_| format!("{digits:?} is no port; a port is 0 to 65535"))?;
            (host, port)
        }
        _ => (text, port),
    };
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if host == "*" {
        return Ok(vec![SocketAddr::from(([0, 0, 0, 0], port))]);
    }
    if ends_in_a_number(host) && host.parse::<IpAddr>().is_err() {
        return Err("an address has four numbers from 0 to 255, such as 127.0.0.1".into());
    }
    let unknown = "neither an address nor a known name; give one such as 127.0.0.1, ::1 or host:port";
    let found: Vec<_> =
        (host, port).to_socket_addrs().map_err(|error| format!("{unknown} ({error})"))?.collect();
    if found.is_empty() { Err(unknown.into()) } else { Ok(found) }
}

/// The system would take `1` for 0.0.0.1 and `0x7f` for 0.0.0.127; no name ends in a number.
fn ends_in_a_number(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let is_decimal = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    is_decimal || hex.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &str) -> Result<Vec<Listen>, String> {
        addresses(&[list.to_owned()], 7)
    }

    fn plain(address: &str) -> Listen {
        Listen { address: address.parse().unwrap(), tls: TlsUse::AsElsewhere, protocol: None }
    }

    #[test]
    fn every_form_of_an_address_is_understood_and_taken_once() {
        assert_eq!(read("127.0.0.1").unwrap(), [plain("127.0.0.1:7")]);
        assert_eq!(
            read("127.0.0.1;127.0.0.2:8,127.0.0.1").unwrap(),
            [plain("127.0.0.1:7"), plain("127.0.0.2:8")]
        );
        assert_eq!(
            read("::1,[::2],[::3]:9").unwrap(),
            [plain("[::1]:7"), plain("[::2]:7"), plain("[::3]:9")]
        );
        for list in ["fe80::1%lo", "[fe80::1%lo]", "[fe80::1%lo]:7"] {
            assert_eq!(
                read(list).unwrap(),
                [plain("[fe80::1%1]:7")],
                "{list}: the first link is the loopback"
            );
        }
        assert_eq!(read("*,*:8").unwrap(), [plain("0.0.0.0:7"), plain("0.0.0.0:8")]);
        let local = read("localhost:9").unwrap();
        assert!(!local.is_empty() && local.iter().all(|listen| listen.address.ip().is_loopback()));
    }

    #[test]
    fn prefixes_choose_tls_and_protocol_for_one_address() {
        let found = read("notls:proto[binary]:127.0.0.1:8,mtls:tag[a]:[::1],btls:tag_b_:*").unwrap();
        assert_eq!(
            found[0],
            Listen { tls: TlsUse::Never, protocol: Some(Binding::Binary), ..plain("127.0.0.1:8") }
        );
        assert_eq!(found[1], Listen { tls: TlsUse::Mutual, ..plain("[::1]:7") });
        assert_eq!(found[2], Listen { tls: TlsUse::Basic, ..plain("0.0.0.0:7") });
    }

    #[test]
    fn what_is_wrong_is_said_with_the_word() {
        for (list, word) in [
            ("no.such.name.invalid", "-l no.such.name.invalid: neither"),
            ("127.0.0.1:70000", "\"70000\" is no port"),
            ("1", "-l 1: an address has four numbers"),
            ("127.1:11211", "four numbers"),
            ("256.0.0.1", "four numbers"),
            ("0x7f000001", "four numbers"),
            ("proto[proxy]:*", "no proxy"),
            ("proto[x]:*", "proto[x]"),
            ("tag[123456789]:*", "1 to 8"),
            ("tag[x", "not closed"),
            ("fe80::1%nosuchlink", "neither"),
            ("*,notls:*", "given twice"),
        ] {
            let text = read(list).unwrap_err();
            assert!(text.contains(word), "{list}: {text}");
        }
    }
}
