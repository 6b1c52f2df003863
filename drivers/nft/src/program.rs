//! The program `nft`, which loads what is constant.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;

use crate::error::NftError;

/// What is kept of the program's complaints, in bytes.
const MAX_TEXT_BYTES: usize = 4096;

/// Loads a ruleset in the language of nft, by `nft -f -`: all of it or nothing, in the network namespace of this thread.
///
/// # Errors
/// When the program is absent, or refuses the ruleset.
pub fn load(ruleset: &str) -> Result<(), NftError> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(NftError::Program)?;
    let stdin = child.stdin.take();
    let output = thread::scope(|scope| {
        scope.spawn(move || {
            if let Some(mut stdin) = stdin {
                // A program that ends before it has read everything says why in its status.
                let _ = stdin.write_all(ruleset.as_bytes());
            }
        });
        child.wait_with_output()
    });
    let output = output.map_err(NftError::Program)?;
    if output.status.success() {
        return Ok(());
    }
    let said = output.stderr.get(..MAX_TEXT_BYTES).unwrap_or(&output.stderr);
    let said = String::from_utf8_lossy(said).trim().to_owned();
    let text = if said.is_empty() { output.status.to_string() } else { said };
    Err(NftError::Ruleset { text })
}
