//! Who may come in: files of users and passwords, SASL PLAIN messages, and a comparison that tells nothing by its time.
//!
//! It reads no file: the caller brings the bytes. Passwords are never shown, not even to `{:?}`.

use std::fmt;
use subtle::{Choice, ConstantTimeEq};

/// The only SASL mechanism there is.
pub const SASL_MECHANISMS: &str = "PLAIN";

/// Longest line of an authentication file, its end not counted, in bytes.
pub const AUTH_ENTRY_SIZE_MAX: usize = 255;

/// Most users of an authentication file; memcached does not read on, and neither does this.
pub const AUTH_USERS_MAX: usize = 8;

/// Most users of a SASL password database, which memcached does not bound.
pub const SASL_USERS_MAX: usize = 1024;

/// Users and their passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct Users {
    entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Eq)]
struct Entry {
    user: Box<[u8]>,
    password: Box<[u8]>,
}

/// How a file of users is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsersFormat {
    /// memcached's `-Y`: lines of `user:password`, the first [`AUTH_USERS_MAX`] of them.
    AuthFile,
    /// What `MEMCACHED_SASL_PWDB` names: lines of `user:password`, of which a second colon ends the password.
    SaslDatabase,
}

/// Why a file of users was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsersError {
    /// Nobody in it could come in.
    Empty,
    /// This line, counted from 1, has no colon, holds a NUL, or is over [`AUTH_ENTRY_SIZE_MAX`].
    MalformedLine(usize),
    /// More than [`SASL_USERS_MAX`].
    TooMany,
}

impl Users {
    /// Reads a file. Lines end in LF or CRLF, the last one may have no end. O(length), allocates.
    ///
    /// # Errors
    /// [`UsersError`]: somebody would not come in as the file says. Nobody of it is taken then.
    pub fn parse(file: &[u8], format: UsersFormat) -> Result<Self, UsersError> {
        let lines = file.strip_suffix(b"\n").unwrap_or(file).split(|&byte| byte == b'\n');
        let mut users = Self { entries: Vec::new() };
        if file.is_empty() {
            return Err(UsersError::Empty);
        }
        for (at, line) in lines.enumerate() {
            match format {
                UsersFormat::AuthFile if at == AUTH_USERS_MAX => break,
                UsersFormat::SaslDatabase if at == SASL_USERS_MAX => return Err(UsersError::TooMany),
                UsersFormat::AuthFile | UsersFormat::SaslDatabase => {}
            }
            let (user, password) = parse_entry(line, format).ok_or(UsersError::MalformedLine(at + 1))?;
            users.entries.push(Entry { user: user.into(), password: password.into() });
        }
        Ok(users)
    }

    /// Whether this user has this password.
    ///
    /// Every entry is compared to its end, whoever is asked for: time depends on the lengths alone, of which those of
    /// what was asked are known to who asks. O(users * length).
    pub fn allow(&self, user: &[u8], password: &[u8]) -> bool {
        let nobody = Choice::from(0);
        let found = self
            .entries
            .iter()
            .fold(nobody, |found, entry| found | (entry.user.ct_eq(user) & entry.password.ct_eq(password)));
        found.into()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.entries.len()
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Users({})", self.entries.len())
    }
}

/// User and password of a SASL PLAIN message: `authorize NUL user NUL password`, or `None` if it is none.
///
/// Who is to be authorized is not looked at: there are no rights to choose. Source: RFC 4616.
pub fn parse_sasl_plain(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = message.split(|&byte| byte == 0);
    let (_authorize, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    let complete = parts.next().is_none() && !user.is_empty() && !password.is_empty();
    complete.then_some((user, password))
}

fn parse_entry(line: &[u8], format: UsersFormat) -> Option<(&[u8], &[u8])> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > AUTH_ENTRY_SIZE_MAX || line.contains(&0) {
        return None;
    }
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (user, password) = (&line[..colon], &line[colon + 1..]);
    match format {
        UsersFormat::AuthFile => Some((user, password)),
        UsersFormat::SaslDatabase => Some((user, password.split(|&byte| byte == b':').next()?)),
    }
    // Nobody is nobody: SASL could never say such a name, and a line by itself would let in whoever says nothing.
    .filter(|(user, password)| !user.is_empty() && !password.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(file: &str) -> Result<Users, UsersError> {
        Users::parse(file.as_bytes(), UsersFormat::AuthFile)
    }

    #[test]
    fn lines_of_an_authentication_file_are_users_and_passwords() {
        for file in ["foo:bar\nbaz:qu:x\n", "foo:bar\r\nbaz:qu:x"] {
            let users = parse(file).unwrap();
            assert_eq!(users.count(), 2);
            assert!(users.allow(b"foo", b"bar") && users.allow(b"baz", b"qu:x"));
            for (user, password) in
                [("foo", "ba"), ("fo", "bar"), ("foo", "bar\n"), ("foo", "qu:x"), ("", "")]
            {
                assert!(!users.allow(user.as_bytes(), password.as_bytes()), "{user} {password}");
            }
        }
    }

    #[test]
    fn a_password_database_may_say_more_behind_the_password() {
        let users = Users::parse(b"foo:bar:more\nbaz:qux\n", UsersFormat::SaslDatabase).unwrap();
        assert!(users.allow(b"foo", b"bar") && users.allow(b"baz", b"qux"));
        assert!(!users.allow(b"foo", b"bar:more"));
        let many = "u:p\n".repeat(SASL_USERS_MAX + 1);
        assert_eq!(Users::parse(many.as_bytes(), UsersFormat::SaslDatabase), Err(UsersError::TooMany));
    }

    #[test]
    fn only_the_first_eight_users_of_an_authentication_file_come_in() {
        let file: String = (0..10).map(|user| format!("user{user}:pass\n")).collect();
        let users = parse(&file).unwrap();
        assert_eq!(users.count(), 8);
        assert!(users.allow(b"user7", b"pass") && !users.allow(b"user8", b"pass"));
    }

    #[test]
    fn a_file_that_is_not_understood_is_refused_with_its_line() {
        assert_eq!(parse(""), Err(UsersError::Empty));
        assert_eq!(parse("foo:bar\nfoo\n"), Err(UsersError::MalformedLine(2)));
        assert_eq!(parse("foo:bar\n\nfoo:x"), Err(UsersError::MalformedLine(2)));
        assert_eq!(parse("fo\0o:bar\n"), Err(UsersError::MalformedLine(1)));
        let longest = format!("u:{}", "p".repeat(AUTH_ENTRY_SIZE_MAX - 2));
        assert!(parse(&longest).is_ok());
        assert_eq!(parse(&format!("{longest}p")), Err(UsersError::MalformedLine(1)));
        assert_eq!(parse(&"x".repeat(1 << 20)), Err(UsersError::MalformedLine(1)));
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(format!("{:?}", parse("foo:secret").unwrap()), "Users(1)");
    }

    #[test]
    fn a_plain_message_names_user_and_password() {
        assert_eq!(parse_sasl_plain(b"\0user\0pass word"), Some((&b"user"[..], &b"pass word"[..])));
        assert_eq!(parse_sasl_plain(b"admin\0user\0pass"), Some((&b"user"[..], &b"pass"[..])));
        for message in
            [&b""[..], b"user\0pass", b"\0user", b"\0user\0", b"\0\0pass", b"\0user\0pass\0", b"\0\0\0"]
        {
            assert_eq!(parse_sasl_plain(message), None, "{}", message.escape_ascii());
        }
    }

    #[test]
    fn a_line_without_a_name_or_a_password_is_malformed() {
        for line in [":", "user:", ":password"] {
            for format in [UsersFormat::AuthFile, UsersFormat::SaslDatabase] {
                assert!(
                    matches!(Users::parse(line.as_bytes(), format), Err(UsersError::MalformedLine(1))),
                    "{line}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn comparing_in_constant_time_is_comparing(
            entries in proptest::collection::vec(("[ab]{1,3}", "[ab]{1,3}"), 1..8),
            user in "[ab]{1,3}",
            password in "[ab]{1,3}",
        ) {
            let file: String = entries.iter().map(|(user, password)| format!("{user}:{password}\n")).collect();
            let expected = entries.contains(&(user.clone(), password.clone()));
            prop_assert_eq!(parse(&file).unwrap().allow(user.as_bytes(), password.as_bytes()), expected);
        }

        #[test]
        fn no_file_and_no_message_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            _ = Users::parse(&bytes, UsersFormat::AuthFile).map(|users| users.count());
            _ = Users::parse(&bytes, UsersFormat::SaslDatabase).map(|users| users.count());
            _ = parse_sasl_plain(&bytes).is_some();
        }
    }
}
