//! Which machine and which versions were measured.

use std::path::Path;
use std::process::Command;

use crate::server::Places;

/// Name and value of each thing worth knowing; what can't be found is `unknown`.
#[must_use]
pub fn describe(places: &Places) -> Vec<(String, String)> {
    let node = places.peers.join("node");
    let package = |name: &str| package_version(places, name);
    let socketioxide = std::fs::read_to_string(places.peers.join("socketioxide/Cargo.lock"))
        .ok()
        .and_then(|lock| locked_version(&lock, "socketioxide"));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").ok();
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned());
    let facts = [
        ("cores", Some(cores.to_string())),
        ("processor", cpuinfo.and_then(|text| field(&text, "model name"))),
        ("memory", meminfo.and_then(|text| field(&text, "MemTotal"))),
        ("kernel", kernel),
        ("slop-studios", output("git", &["describe", "--always", "--dirty", "--tags"])),
        ("rustc", output("rustc", &["--version"])),
        ("Node", output("node", &["--version"])),
        ("socket.io", package("socket.io")),
        ("uWebSockets (@trufflesuite/uws-js-unofficial)", package("@trufflesuite/uws-js-unofficial")),
        ("Bun", output_of(&node.join(Places::bun()), &["--version"])),
        ("@socket.io/bun-engine", package("@socket.io/bun-engine")),
        ("socketioxide", socketioxide),
    ];
    known(facts)
}

/// The same for the servers of a cluster.
#[must_use]
pub fn describe_cluster(places: &Places) -> Vec<(String, String)> {
    let package = |name: &str| package_version(places, name);
    let lock = std::fs::read_to_string(places.peers.join("socketioxide-redis/Cargo.lock")).ok();
    let locked = |name: &str| lock.as_ref().and_then(|lock| locked_version(lock, name));
    let redis = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
    let own = ["cores", "processor", "memory", "kernel", "slop-studios", "rustc", "Node", "socket.io"];
    let mut facts: Vec<_> = describe(places).into_iter().filter(|(name, _)| own.contains(&name.as_str())).collect();
    facts.extend(known([
        ("@socket.io/redis-streams-adapter", package("@socket.io/redis-streams-adapter")),
        ("@socket.io/redis-adapter", package("@socket.io/redis-adapter")),
        ("redis (npm)", package("redis")),
        ("socketioxide", locked("socketioxide")),
        ("socketioxide-redis", locked("socketioxide-redis")),
        ("Redis", output(&redis, &["--version"])),
    ]));
    facts
}

fn known<const N: usize>(facts: [(&str, Option<String>); N]) -> Vec<(String, String)> {
    facts.map(|(name, value)| (name.to_owned(), value.unwrap_or_else(|| "unknown".to_owned()))).into()
}

fn package_version(places: &Places, name: &str) -> Option<String> {
    let file = places.peers.join("node/node_modules").join(name).join("package.json");
    let package: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()?;
    Some(package.get("version")?.as_str()?.to_owned())
}

/// The value of the first `name : value` line.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn locked_version(lock: &str, name: &str) -> Option<String> {
    let (_, after) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    Some(after.split_once('"')?.0.to_owned())
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    output_of(Path::new(program), arguments)
}

fn output_of(program: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_found_in_their_files() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A processor: fast\n";
        assert_eq!(field(cpuinfo, "model name").as_deref(), Some("A processor: fast"));
        let lock = "[[package]]\nname = \"socketioxide-core\"\nversion = \"1\"\n\n[[package]]\nname = \"socketioxide\"\nversion = \"0.18.9\"\n";
        assert_eq!(locked_version(lock, "socketioxide").as_deref(), Some("0.18.9"));
        assert_eq!(locked_version(lock, "other"), None);
    }
}
