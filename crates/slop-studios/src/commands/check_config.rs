//! `check-config`: the settings that `serve` would use, and their origins.

use std::io::Write as _;

use anyhow::Context as _;

use crate::commands::failure::Failure;
use crate::config::{Effective, Profile, SettingFlags};

pub(crate) fn run(flags: &SettingFlags) -> Result<(), Failure> {
    let effective = Effective::load(flags, Profile::Serve);
    let (settings, files) = (effective.settings(), effective.file_problems());
    let settings = match settings {
        Ok(settings) if files.is_empty() => settings,
        settings => return Err(Failure::Configuration { settings: settings.err(), files }),
    };
    let mut text = String::new();
    for row in effective.rows() {
        let shown = if row.shown.is_empty() { "\"\"" } else { &row.shown };
        text.push_str(&format!("{} = {shown} ({})\n", row.name, row.source));
    }
    for (number, rule) in (1..).zip(&settings.tables.rules.rooms) {
        text.push_str(&format!("[[rooms]] {number} = {rule} (file)\n"));
    }
    for (number, rule) in (1..).zip(&settings.tables.rules.media) {
        text.push_str(&format!("[[media]] {number} = {rule} (file)\n"));
    }
    for (number, key) in (1..).zip(&settings.tables.publisher_keys) {
        text.push_str(&format!("[[publisher_keys]] {number} = {} for {} (file)\n", key.name, key.scopes));
    }
    std::io::stdout().write_all(text.as_bytes()).context("write the settings")?;
    for warning in settings.warnings() {
        eprintln!("warning: {warning}");
    }
    Ok(())
}
