//! The binary `loadgen`: parses, runs, turns the outcome into an exit code.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use loadgen::bench::{self, Order};
use loadgen::publishing::Lanes;
use loadgen::server::{self, Kind, Places};
use loadgen::{cluster, machine, report};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Drives Socket.IO servers and reads from the system what it costs them.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure servers side by side and print tables of medians.
    Bench(BenchArgs),
    /// Measure servers of two nodes over Redis side by side.
    BenchCluster(ClusterArgs),
    /// List the workloads.
    Workloads,
    /// Become a program that ends when our parent does.
    #[command(hide = true)]
    Exec {
        #[arg(last = true, required = true)]
        program: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct BenchArgs {
    /// Measurements of each server under each workload [default: 5; quick: 1].
    #[arg(long)]
    rounds: Option<usize>,
    /// A look of two minutes instead of figures that are kept.
    #[arg(long)]
    quick: bool,
    /// Workloads, by name or the beginning of their names, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "WORKLOAD")]
    only: Vec<String>,
    /// Servers, separated by commas: ours, ours-2, without-recovery, engine, engine-2, floor, uws, bun, socketioxide, ws.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "SERVER",
        default_value = "ours,ours-2,without-recovery,floor,uws,bun,socketioxide,ws"
    )]
    servers: Vec<String>,
    /// How publishes that are due at the same time go in: together (over HTTP as a batch, else in one write) or each on
    /// a connection of its own [default: together].
    #[arg(long, value_enum, value_name = "LANES")]
    lanes: Option<LanesArg>,
    /// Write all measurements to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the tables into this document, and the growth plot beside it.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    #[command(flatten)]
    places: PlacesArgs,
}

#[derive(Debug, Args)]
struct ClusterArgs {
    /// Measurements of each server in each scenario [default: 3; quick: 1].
    #[arg(long)]
    rounds: Option<usize>,
    /// A look of three minutes instead of figures that are kept.
    #[arg(long)]
    quick: bool,
    /// Scenarios, separated by commas: nobody, elsewhere, lone, members-1, members-5, members-1000, cut, killed, and redis
    /// for the loads on Redis and its memory [default: all].
    #[arg(long, value_delimiter = ',', value_name = "SCENARIO")]
    only: Vec<String>,
    /// Servers, separated by commas.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "SERVER",
        default_value = "ours,without-aof,streams,pubsub,sharded,socketioxide"
    )]
    servers: Vec<String>,
    /// Write the tables into this document.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    #[command(flatten)]
    places: PlacesArgs,
}

#[derive(Debug, Args)]
struct PlacesArgs {
    /// Where the servers of others are.
    #[arg(long, value_name = "DIR", default_value = "bench/peers")]
    peers: PathBuf,
    /// Where our release builds are [default: beside this program].
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
}

impl PlacesArgs {
    fn places(&self) -> Result<Places> {
        let own = std::env::current_exe()?;
        let binaries = self.binaries.clone().or_else(|| own.parent().map(PathBuf::from));
        let binaries = binaries.context("this program has no directory")?;
        Ok(Places { launcher: own, binaries, peers: self.peers.clone() })
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LanesArg {
    /// As one batch request, or in one write to a socket.
    Together,
    /// A connection for each publish in flight.
    Each,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Bench(args) => run(&args),
        Command::BenchCluster(args) => run_cluster(&args),
        Command::Workloads => {
            for workload in loadgen::workload::all() {
                println!("{:20} {} ({})", workload.name(), workload.title(), workload.unit());
            }
            Ok(())
        }
        Command::Exec { program } => server::exec(&program),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &BenchArgs) -> Result<()> {
    let servers: Vec<Kind> = (args.servers.iter())
        .map(|name| Kind::named(name).with_context(|| format!("no server is called {name}")))
        .collect::<Result<_>>()?;
    let order = Order {
        workloads: bench::choose(&args.only, args.quick)?,
        servers,
        rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 5 }).max(1),
        quick: args.quick,
        lanes: args.lanes.map(|lanes| match lanes {
            LanesArg::Together => Lanes::Together,
            LanesArg::Each => Lanes::Each,
        }),
    };
    let places = args.places.places()?;
    let most = allow_open_files()?;
    // 16,000 connections are the most that a workload has.
    if most < 16_500 && order.workloads.iter().any(|workload| workload.name() == "growth-16000") {
        bail!("{most} open files are allowed, 16,500 are needed (`ulimit -Hn`)");
    }

    let results = order.carry_out(&places, |series| {
        if let (Some(first), Some(table)) = (series.first(), report::table(&series.iter().collect::<Vec<_>>())) {
            println!("\n{}: {}\n{}", first.workload.name(), first.workload.title(), table.text());
        }
    })?;
    println!("\n{}", report::promises(&results, false).text());
    if results.skipped > 0 {
        println!("{} measurements were skipped: no time was left.", results.skipped);
    }
    if let Some(path) = &args.json {
        std::fs::write(path, results.to_json()?).with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &args.markdown {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let command = format!("loadgen {}", arguments.join(" "));
        report::save(path, &results, &command, &machine::describe(&places))?;
    }
    let failures = results.own_failures();
    if let Some(first) = failures.first() {
        bail!(
            "{} series of ours failed, the first {} under {}: {}",
            failures.len(),
            first.server,
            first.workload.name(),
            first.error().unwrap_or_default()
        );
    }
    Ok(())
}

/// Allows as many open files as the system does. The servers inherit it.
fn allow_open_files() -> Result<u64> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(most)
}

fn run_cluster(args: &ClusterArgs) -> Result<()> {
    let kinds = (args.servers.iter())
        .map(|name| cluster::Kind::named(name).with_context(|| format!("no server is called {name}")))
        .collect::<Result<_>>()?;
    let is_wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|it| it == name);
    let mut scenarios = cluster::SCENARIOS.to_vec();
    scenarios.retain(|scenario| is_wanted(&scenario.name()));
    let order = cluster::Order {
        scenarios,
        redis: is_wanted("redis"),
        kinds,
        rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 3 }).max(1),
        quick: args.quick,
    };
    let places = args.places.places()?;
    allow_open_files()?;
    let results = order.carry_out(&places)?;
    println!("{}", cluster::report::text(&results));
    if let Some(path) = &args.markdown {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let command = format!("loadgen {}", arguments.join(" "));
        let text = cluster::report::document(&results, &command, &machine::describe_cluster(&places));
        let before = std::fs::read_to_string(path).unwrap_or_default();
        let text = report::insert(&before, "bench-cluster", &text);
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    let failures = results.own_failures();
    if !failures.is_empty() {
        bail!("{} measurements of ours failed: {}", failures.len(), failures.join("; "));
    }
    Ok(())
}
