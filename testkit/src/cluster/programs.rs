//! Where the programs of a cluster are: kube-apiserver, kube-controller-manager, kubectl, helm and etcd.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Result, ensure};

/// The directory of the programs.
#[derive(Clone, Debug)]
pub(super) struct Programs(PathBuf);

impl Programs {
    /// `$HEADWATER_KUBE_BIN`, else the newest directory that `tools/kube/build` has completed.
    ///
    /// # Panics
    /// When there is none: every test of a cluster would fail, and only this helps.
    pub(super) fn find() -> Self {
        let named = env::var_os("HEADWATER_KUBE_BIN").filter(|path| !path.is_empty()).map(PathBuf::from);
        let found = named.or_else(|| newest(&cache()?));
        Self(found.unwrap_or_else(|| {
            panic!(
                "\n\n    NO PROGRAMS FOR A TEST CLUSTER. Run: tools/kube/build\n    (it needs Go, and prints the directory; \
                 $HEADWATER_KUBE_BIN may name another)\n"
            )
        }))
    }

    /// The path of a program.
    pub(super) fn path(&self, program: &str) -> Result<PathBuf> {
        let path = self.0.join(program);
        ensure!(path.is_file(), "{} is absent; run: tools/kube/build", path.display());
        Ok(path)
    }
}

fn cache() -> Option<PathBuf> {
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from).or_else(home)?;
    Some(cache.join("headwater"))
}

fn newest(cache: &Path) -> Option<PathBuf> {
    let completed = |dir: &Path| -> Option<SystemTime> { fs::metadata(dir.join("complete")).ok()?.modified().ok() };
    fs::read_dir(cache)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|dir| dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kube-")))
        .filter_map(|dir| Some((completed(&dir)?, dir)))
        .max()
        .map(|(_, dir)| dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_completed_directories_count_and_the_newest_wins() -> Result<()> {
        let cache = tempfile::tempdir()?;
        assert_eq!(newest(cache.path()), None);
        for (name, age) in [("kube-old", Some(200)), ("kube-new", Some(100)), ("kube-half", None), ("other", Some(0))] {
            let dir = cache.path().join(name);
            fs::create_dir(&dir)?;
            if let Some(age) = age {
                let time = SystemTime::now() - std::time::Duration::from_secs(age);
                fs::File::create(dir.join("complete"))?.set_modified(time)?;
            }
        }
        assert_eq!(newest(cache.path()), Some(cache.path().join("kube-new")));
        Ok(())
    }
}
