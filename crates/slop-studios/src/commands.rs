//! The commands of the command line, a module each.

pub(crate) mod check_config;
pub(crate) mod completions;
pub(crate) mod dev;
mod dev_files;
pub(crate) mod explain;
pub(crate) mod key;
pub(crate) mod listen;
pub(crate) mod publish;
pub(crate) mod serve;
mod server_url;
pub(crate) mod terminal;
pub(crate) mod token;
mod trust;
