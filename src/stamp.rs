//! What a file that changed is known by. One decision: everything that the system says of it, because each alone stays as it was
//! somewhere: the time where a copy keeps it, the length of a renewed certificate, the inode of a file that is written over. Knows
//! nothing of what is in the file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Compared with another of the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: (i64, i64),
    changed: (i64, i64),
    file: (u64, u64),
    bytes: u64,
}

impl Stamp {
    /// Of the file that is there now, links followed; `None` where there is none, or none that can be looked at.
    pub fn of(path: &Path) -> Option<Stamp> {
        let found = fs::metadata(path).ok()?;
        Some(Stamp {
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
            file: (found.dev(), found.ino()),
            bytes: found.len(),
        })
    }

    /// When anything of it changed last, by the system's clock and nobody's word.
    pub fn changed(&self) -> Option<SystemTime> {
        let (seconds, nanoseconds) = self.changed;
        let since = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanoseconds).ok()?);
        SystemTime::UNIX_EPOCH.checked_add(since)
    }
}

#[cfg(test)]
mod tests {
    use super::Stamp;
    use std::fs;

    #[test]
    fn a_copy_of_the_same_length_and_time_is_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("one"), folder.path().join("other"));
        assert_eq!(Stamp::of(&path), None);
        fs::write(&path, "before").unwrap();
        let before = Stamp::of(&path).unwrap();
        assert_eq!(Stamp::of(&path), Some(before));
        fs::write(&other, "behind").unwrap();
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        fs::File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
        fs::rename(&other, &path).unwrap();
        let after = Stamp::of(&path).unwrap();
        assert_eq!((before.bytes, before.modified), (after.bytes, after.modified));
        assert_ne!(before, after);
        assert!(after.changed() >= before.changed() && before.changed().is_some());
    }
}
