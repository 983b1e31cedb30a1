//! `-Y`: who may use the server, from a file with lines of `user:password`, as memcached reads it.
//!
//! The file is read at the start and again on SIGHUP; one that cannot be read then changes nothing. Connections ask
//! [`Auth::check`], which takes as long for a good guess as for a bad one.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use crate::limits::{AUTH_ENTRY_COUNT_MAX, AUTH_FILE_SIZE_MAX, AUTH_LINE_SIZE_MAX};

/// Why a file of users cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// It cannot be read.
    #[error("-Y {}: could not open authfile for reading: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is far larger than such a file can be.
    #[error("-Y {}: an authfile has at most {AUTH_FILE_SIZE_MAX} bytes; is this the right file?", .0.display())]
    TooLarge(PathBuf),
    /// A line without a colon.
    #[error("-Y {}: authfile has a malformed entry in line {line}: it should be user:password", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// A line that memcached would cut.
    #[error(
        "-Y {}: line {line} of the authfile is too long: user:password has at most {AUTH_LINE_SIZE_MAX} bytes",
        path.display()
    )]
    LineTooLong {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
}

/// One line.
struct Entry {
    user: Vec<u8>,
    password: Vec<u8>,
}

/// The users that a file names. Shared between threads: one reads the file again, the others ask.
pub struct Auth {
    path: PathBuf,
    entries: RwLock<Vec<Entry>>,
}

/// Without the passwords.
impl std::fmt::Debug for Auth {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Auth").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Auth {
    /// Reads `path`. A file without a line is a good one, and lets nobody in.
    ///
    /// # Errors
    /// [`AuthError`].
    pub fn load(path: &Path) -> Result<Self, AuthError> {
        Ok(Self { path: path.to_path_buf(), entries: RwLock::new(read(path)?) })
    }

    /// Reads the file again. Whoever is let in already stays.
    ///
    /// # Errors
    /// [`AuthError`]; then everything is as before.
    pub fn reload(&self) -> Result<(), AuthError> {
        let entries = read(&self.path)?;
        *self.entries.write().unwrap_or_else(PoisonError::into_inner) = entries;
        Ok(())
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the user is one of the file's and this is the password. The time it takes tells nothing of how much of
    /// either was right.
    #[must_use]
    pub fn check(&self, user: &[u8], password: &[u8]) -> bool {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let is_one = |entry: &Entry| is_equal(&entry.user, user) & is_equal(&entry.password, password);
        entries.iter().fold(false, |found, entry| found | is_one(entry))
    }
}

/// Compares in a time that depends on the size of `secret` only.
fn is_equal(secret: &[u8], guess: &[u8]) -> bool {
    let byte_of = |position: usize| guess.get(position).copied().unwrap_or(0);
    let differs = |sum: u8, (position, byte): (usize, &u8)| black_box(sum | (byte ^ byte_of(position)));
    let difference = secret.iter().enumerate().fold(0, differs);
    black_box(difference == 0) & (secret.len() == guess.len())
}

fn read(path: &Path) -> Result<Vec<Entry>, AuthError> {
    let unreadable = |source| AuthError::Unreadable { path: path.to_path_buf(), source };
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > AUTH_FILE_SIZE_MAX as u64 {
        return Err(AuthError::TooLarge(path.to_path_buf()));
    }
    let text = std::fs::read(path).map_err(unreadable)?;
    let mut entries = Vec::new();
    let mut lines = text.split(|byte| *byte == b'\n').collect::<Vec<_>>();
    // What stands behind the last line's end is no line.
    lines.pop_if(|line| line.is_empty());
    for (number, line) in (1..).zip(&lines) {
        if entries.len() == AUTH_ENTRY_COUNT_MAX {
            let rest = lines.len() - AUTH_ENTRY_COUNT_MAX;
            tracing::warn!(
                "-Y {}: only the first {AUTH_ENTRY_COUNT_MAX} users count, {rest} more are left out",
                path.display()
            );
            break;
        }
        entries.push(parse_line(line, path, number)?);
    }
    Ok(entries)
}

/// The user ends at the first colon, the password at the end of the line.
fn parse_line(line: &[u8], path: &Path, number: usize) -> Result<Entry, AuthError> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > AUTH_LINE_SIZE_MAX {
        return Err(AuthError::LineTooLong { path: path.to_path_buf(), line: number });
    }
    let colon = line.iter().position(|byte| *byte == b':').filter(|_| !line.contains(&0));
    let colon = colon.ok_or_else(|| AuthError::Malformed { path: path.to_path_buf(), line: number })?;
    Ok(Entry { user: line[..colon].to_vec(), password: line[colon + 1..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with this text.
    fn file(text: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file for a test");
        std::fs::write(file.path(), text).expect("it can be written");
        file
    }

    fn auth(text: &[u8]) -> Auth {
        Auth::load(file(text).path()).expect("a good file")
    }

    #[test]
    fn users_are_let_in_with_their_own_password_only() {
        let auth = auth(b"anna:secret\nbob:with:colons and blanks\r\ncarl:\nlast:without an end of line");
        for (user, password) in
            [("anna", "secret"), ("bob", "with:colons and blanks"), ("carl", ""), ("last", "without an end of line")]
        {
            assert!(auth.check(user.as_bytes(), password.as_bytes()), "{user}");
        }
        for (user, password) in [
            ("anna", ""),
            ("anna", "secre"),
            ("anna", "secret\0"),
            ("anna", "secrets"),
            ("anna", "with:colons and blanks"),
            ("bob", "secret"),
            ("ann", "secret"),
            ("anna\0", "secret"),
            ("", ""),
            ("anna:secret", ""),
            ("bob", "with:colons and blanks\r"),
        ] {
            assert!(!auth.check(user.as_bytes(), password.as_bytes()), "{user}, {password}");
        }
    }

    #[test]
    fn a_file_without_lines_lets_nobody_in() {
        assert!(!auth(b"").check(b"", b""));
    }

    #[test]
    fn the_first_eight_users_count() {
        let lines: Vec<String> = (0..10).map(|number| format!("user{number}:pass{number}\n")).collect();
        let auth = auth(lines.concat().as_bytes());
        let is_in = |number: &usize| auth.check(format!("user{number}").as_bytes(), format!("pass{number}").as_bytes());
        assert_eq!((0..10).filter(is_in).collect::<Vec<_>>(), (0..AUTH_ENTRY_COUNT_MAX).collect::<Vec<_>>());
    }

    #[test]
    fn bad_files_are_named_with_their_line() {
        let longest = [b"u:", "x".repeat(AUTH_LINE_SIZE_MAX - 2).as_bytes()].concat();
        assert!(auth(&longest).check(b"u", &longest[2..]));
        let too_long = [&longest[..], b"x\n"].concat();
        let too_large = b"u:p\n".repeat(AUTH_FILE_SIZE_MAX / 4 + 1);
        for (text, sentence) in [
            (&b"anna:secret\nbob\n"[..], "malformed entry in line 2"),
            (b"\n", "malformed entry in line 1"),
            (b"anna:secret\n\n", "malformed entry in line 2"),
            (b"anna:sec\0ret\n", "malformed entry in line 1"),
            (&too_long, "line 1 of the authfile is too long"),
            (&too_large, "at most"),
        ] {
            let file = file(text);
            let error = Auth::load(file.path()).expect_err(sentence).to_string();
            assert!(error.contains(sentence) && error.contains(&file.path().display().to_string()), "{error}");
        }
        let error = Auth::load(Path::new("/nowhere/users")).expect_err("no such file").to_string();
        assert!(error.contains("/nowhere/users") && error.contains("No such file"), "{error}");
    }

    #[test]
    fn a_file_is_read_again_and_a_bad_one_changes_nothing() {
        let file = file(b"anna:secret\n");
        let auth = Auth::load(file.path()).expect("a good file");
        std::fs::write(file.path(), "bob:hidden\n").expect("it can be written");
        assert!(auth.check(b"anna", b"secret") && !auth.check(b"bob", b"hidden"));
        auth.reload().expect("a good file");
        assert!(!auth.check(b"anna", b"secret") && auth.check(b"bob", b"hidden"));
        std::fs::write(file.path(), "no colon\n").expect("it can be written");
        assert!(auth.reload().is_err());
        assert!(auth.check(b"bob", b"hidden"));
        std::fs::remove_file(file.path()).expect("it is there");
        assert!(auth.reload().is_err());
        assert!(auth.check(b"bob", b"hidden"));
        // The temporary file's own removal has nothing to do any more.
        drop(file);
    }

    #[test]
    fn passwords_are_not_shown() {
        assert!(!format!("{:?}", auth(b"anna:secret")).contains("secret"));
    }
}
