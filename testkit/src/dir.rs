//! A directory of manifests that changes the way editors and Kubernetes change it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::{NamedTempFile, TempDir};

/// A temporary directory, removed when dropped.
#[derive(Debug)]
pub struct ManifestDir {
    dir: TempDir,
    /// Number of the directory that `..data` names last.
    generation: u32,
}

impl ManifestDir {
    /// An empty directory.
    ///
    /// # Errors
    /// When the temporary directory cannot be made.
    pub fn new() -> Result<Self> {
        Ok(Self { dir: TempDir::new().context("temporary directory")?, generation: 0 })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file in one step: written under another name, then renamed. Missing parents are made.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path().join(name);
        let parent = path.parent().context("file without a directory")?;
        fs::create_dir_all(parent)?;
        // The name of the temporary file starts with a dot, as editors do it.
        let mut file = NamedTempFile::new_in(parent)?;
        file.write_all(text.as_bytes())?;
        file.persist(&path).with_context(|| format!("write {}", path.display()))?;
        Ok(())
    }

    /// Removes a file.
    ///
    /// # Errors
    /// What the file system says, also when the file is absent.
    pub fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.path().join(name)).with_context(|| format!("remove {name}"))
    }

    /// Replaces all files at once as a ConfigMap or Secret volume does: the files live in a fresh directory, `..data` is
    /// a link to it that is swapped by rename, and each name is a link through `..data`.
    ///
    /// Only names given to earlier swaps are removed; files of [`ManifestDir::write`] stay.
    ///
    /// # Errors
    /// What the file system says.
    pub fn swap(&mut self, files: &[(&str, &str)]) -> Result<()> {
        let old = self.path().join(format!("..{}", self.generation));
        self.generation += 1;
        let fresh = format!("..{}", self.generation);
        fs::create_dir(self.path().join(&fresh))?;
        for (name, text) in files {
            fs::write(self.path().join(&fresh).join(name), text)?;
        }
        let next = self.path().join("..data_tmp");
        symlink(&fresh, &next)?;
        fs::rename(&next, self.path().join("..data"))?;
        for (name, _) in files {
            let link = self.path().join(name);
            if fs::symlink_metadata(&link).is_err() {
                symlink(Path::new("..data").join(name), link)?;
            }
        }
        if old.exists() {
            for entry in fs::read_dir(&old)? {
                let name = entry?.file_name();
                if !files.iter().any(|(kept, _)| name == **kept) {
                    fs::remove_file(self.path().join(name))?;
                }
            }
            fs::remove_dir_all(old)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_replaces_the_files_of_the_swap_before_and_no_others() -> Result<()> {
        let mut dir = ManifestDir::new()?;
        dir.write("sub/own.yaml", "own")?;
        dir.swap(&[("a.yaml", "1"), ("b.yaml", "1")])?;
        dir.swap(&[("b.yaml", "2"), ("c.yaml", "2")])?;
        let read = |name| fs::read_to_string(dir.path().join(name)).ok();
        assert_eq!(read("a.yaml"), None);
        assert_eq!(read("b.yaml").as_deref(), Some("2"));
        assert_eq!(read("c.yaml").as_deref(), Some("2"));
        assert_eq!(read("sub/own.yaml").as_deref(), Some("own"));
        assert!(!dir.path().join("..1").exists());
        Ok(())
    }
}
