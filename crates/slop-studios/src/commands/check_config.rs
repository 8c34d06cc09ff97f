//! `check-config`: the settings that `serve` would use, and their origins.

use std::io::Write as _;

use anyhow::Context as _;
use secrecy::ExposeSecret as _;

use crate::commands::failure::Failure;
use crate::config::{Effective, Profile, SettingFlags, Settings};
use crate::store::redis;

pub(crate) fn run(flags: &SettingFlags, is_offline: bool) -> Result<(), Failure> {
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
    write(&text)?;
    for warning in settings.warnings() {
        eprintln!("warning: {warning}");
    }
    if !is_offline {
        check_redis(&settings)?;
    }
    Ok(())
}

/// Connects to Redis, if the settings name one, and reports what is there.
fn check_redis(settings: &Settings) -> Result<(), Failure> {
    let Some(url) = &settings.redis_url else { return Ok(()) };
    let target = url.expose_secret().parse().context("REDIS_URL")?;
    let report = redis::check(&target, &settings.redis_prefix, settings.redis_durability, settings.redis_wait)
        .context("check the Redis of REDIS_URL")?;
    write(&report.facts)?;
    for warning in report.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

fn write(text: &str) -> Result<(), Failure> {
    Ok(std::io::stdout().write_all(text.as_bytes()).context("write to standard output")?)
}
