//! What the help says, and what shells complete.

use std::process::Command;

use crate::{Place, Ran};

fn help(args: &[&str]) -> String {
    Place::new().run(&[args, &["--help"]].concat()).ok().stdout
}

#[test]
fn the_settings_stand_in_groups() {
    for command in ["serve", "dev", "check-config", "explain"] {
        let help = help(&[command]);
        let place = |heading: &str| {
            let at = help.find(&format!("\n{heading}:\n"));
            at.unwrap_or_else(|| panic!("no {heading} in {help}"))
        };
        let tokens = place("Users' tokens");
        assert!(place("Address") < tokens && tokens < place("What is kept"), "{help}");
        // Each setting once, in its group.
        for (heading, flag) in [
            ("Address", "--port <N>"),
            ("Users' tokens", "--jwt-secret <VALUE>"),
            ("Publishers", "--publish-rate-per-key <N>"),
            ("TLS", "--tls-key-file <VALUE>"),
            ("What is kept", "--data-dir <VALUE>"),
            ("What is kept", "--store-sync <VALUE>"),
            ("Slow clients", "--write-stall-ms <N>"),
            ("Clients' limits", "--auth-failure-limit <N>"),
        ] {
            let of_group = help[place(heading)..].trim_start().split("\n\n").collect::<Vec<_>>().join("\n");
            let of_group = of_group.lines().skip(1).take_while(|line| line.is_empty() || line.starts_with(' '));
            assert_eq!(of_group.filter(|line| line.contains(flag)).count(), 1, "{flag} under {heading} in {help}");
            assert_eq!(help.matches(flag).count(), 1, "{flag} in {help}");
        }
    }
}

#[test]
fn every_command_has_a_summary() {
    let help = help(&[]);
    let commands = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("the commands");
    for command in ["serve", "dev", "token", "publish", "listen", "explain", "key", "check-config", "completions"] {
        let line = commands.lines().find(|line| line.trim_start().starts_with(command));
        let line = line.unwrap_or_else(|| panic!("no {command} in {help}"));
        assert!(line.trim().split(' ').filter(|word| !word.is_empty()).count() > 2, "{line}");
    }
    assert!(commands.contains("Start the server, and run it until it is told to stop"), "{commands}");
}

/// Each argument, with what is said of it: beside it, or in the lines below that are indented further.
#[test]
fn no_argument_is_without_a_description() {
    let commands: [&[&str]; 15] = [
        &["serve"],
        &["dev"],
        &["token"],
        &["publish"],
        &["publish", "progress"],
        &["publish", "complete"],
        &["publish", "error"],
        &["publish", "notification"],
        &["publish", "room"],
        &["publish", "json"],
        &["publish", "ndjson"],
        &["listen"],
        &["explain"],
        &["key", "new"],
        &["completions"],
    ];
    for command in commands {
        let help = help(command);
        let lines: Vec<&str> = help.lines().collect();
        let indent = |line: &str| line.len() - line.trim_start().len();
        let mut seen = 0;
        for (at, line) in lines.iter().enumerate() {
            let is_argument = (1..=6).contains(&indent(line)) && line.trim_start().starts_with(['-', '<', '[']);
            // A usage has no description, and an example may begin with a bracket.
            if !is_argument || line.contains("Usage") {
                continue;
            }
            seen += 1;
            let beside = line.trim_start().split_once("  ").is_some_and(|(_, text)| !text.trim().is_empty());
            let below = lines.get(at + 1).is_some_and(|next| indent(next) > 6 && !next.trim_start().starts_with('['));
            assert!(beside || below, "{command:?}: {line:?} in {help}");
        }
        assert!(seen > 0, "{help}");
    }
}

#[test]
fn a_shell_completes_commands_and_flags() {
    let place = Place::new();
    place.write("completions.bash", &place.run(&["completions", "bash"]).ok().stdout);
    let complete = |words: &[&str]| {
        let script = format!(
            "source ./completions.bash; [[ $(complete -p slop-studios) =~ -F\\ ([^ ]+) ]]; COMP_WORDS=({}); COMP_CWORD={}; \
             ${{BASH_REMATCH[1]}} slop-studios '{}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.join(" "),
            words.len() - 1,
            words.last().expect("a word"),
            words.get(words.len() - 2).expect("two words"),
        );
        let mut bash = Command::new("bash");
        let bash = bash.args(["--norc", "--noprofile", "-c", &script]).current_dir(place.path());
        Ran::from(bash.output().expect("bash runs")).ok().stdout
    };
    assert_eq!(complete(&["slop-studios", "pub"]), "publish\n");
    assert!(complete(&["slop-studios", "publish", "nd"]).contains("ndjson\n"));
    assert_eq!(complete(&["slop-studios", "serve", "--tls-k"]), "--tls-key-file\n");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(place.run(&["completions", shell]).ok().stdout.contains("check-config"), "{shell}");
    }
    let ran = place.run(&["completions", "cmd"]).refused();
    assert!(ran.stderr.contains("bash") && ran.stderr.contains("zsh"), "{ran:#?}");
}
