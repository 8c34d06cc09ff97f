//! The settings on the command line.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::{DefaultValue, Kind, SETTINGS, Setting};

/// The settings' flags and `--config`, from the command line.
#[derive(Clone, Default)]
pub struct SettingFlags {
    pub(super) values: BTreeMap<&'static str, String>,
    pub(super) config: Option<PathBuf>,
}

impl SettingFlags {
    /// The flags of a command that accepts only a few settings.
    pub(crate) fn of(
        config: Option<PathBuf>,
        values: impl IntoIterator<Item = (&'static str, Option<String>)>,
    ) -> Self {
        Self { values: values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(), config }
    }
}

impl fmt::Debug for SettingFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SettingFlags").field("names", &self.values.keys()).field("config", &self.config).finish()
    }
}

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        let command = command.arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("TOML file with settings, named as here but with underscores"),
        );
        SETTINGS.iter().fold(command, |command, setting| command.arg(setting.argument()))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let values = SETTINGS
            .iter()
            .filter_map(|setting| {
                let value = matches.get_one::<String>(setting.name)?;
                Some((setting.name, value.clone()))
            })
            .collect();
        Ok(Self { values, config: matches.get_one::<PathBuf>("config").cloned() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Setting {
    fn argument(&self) -> Arg {
        let default = match &self.default {
            DefaultValue::Fixed("") => String::new(),
            DefaultValue::Cores => " [default: one per core]".to_owned(),
            DefaultValue::Fixed(text) => format!(" [default: {text}]"),
            DefaultValue::Share { of, parts } => format!(" [default: {of} / {parts}]"),
            DefaultValue::Profile { serve, dev } => {
                let serve = if serve.is_empty() { "none" } else { serve };
                format!(" [default: {serve}; dev: {dev}]")
            }
        };
        let argument = Arg::new(self.name)
            .long(self.flag())
            .help(format!("{}{default} [env: {}]", self.help(), self.name))
            .help_heading(self.group)
            .action(ArgAction::Set)
            // A negative number is reported as a wrong value, not as an unknown flag.
            .allow_negative_numbers(true);
        match self.kind {
            Kind::Boolean => argument
                .value_name("true|false")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(PossibleValuesParser::new(["true", "false"])),
            Kind::Number => argument.value_name("N"),
            Kind::List | Kind::SecretList => argument.value_name("LIST"),
            Kind::Text | Kind::Secret => argument.value_name("VALUE"),
        }
    }
}
