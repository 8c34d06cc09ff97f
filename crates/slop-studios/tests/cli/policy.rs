//! `explain`, `key` and what `check-config` says of the configuration's tables.

use serde_json::{Value, json};

use crate::{Place, Ran, SECRET};

const RULES: &str = r#"
[[rooms]]
name = "project-{id}"
allow = { claim = "projects", contains = "{id}" }

[[rooms]]
name = "*"
namespace = "/media"
allow = "nobody"

[[media]]
name = "team-{team}-*"
allow = "authenticated"
allow_owned = { claim = "team", equals = "{team}" }
"#;

/// A place with these rules.
fn place() -> Place {
    let place = Place::new();
    place.write("slop.toml", RULES);
    place
}

fn token(place: &Place, more: &[&str]) -> String {
    let args = [&["token", "--user", "alice", "--claim", r#"projects=["1",2]"#, "--claim", "team=red"], more].concat();
    place.run_with(&args, &[("JWT_SECRET", SECRET)]).ok().stdout.trim().to_owned()
}

fn explain(place: &Place, args: &[&str]) -> Ran {
    let args = [&["explain", "--config", "slop.toml"], args].concat();
    place.run_with(&args, &[("JWT_SECRET", SECRET)])
}

#[test]
fn explain_names_the_rule_and_says_why() {
    let place = place();
    let token = token(&place, &[]);
    let cases: [(&[&str], &str); 9] = [
        (
            &["--token", &token, "--join", "project-2"],
            "allowed: join project-2 on / as alice\n\
             rule: [[rooms]] 1 (\"project-{id}\"), allow: claim projects contains \"{id}\"\n\
             why: {id} is \"2\"; the claim projects contains \"2\"\n",
        ),
        (
            &["--token", &token, "--join", "project-3"],
            "denied: join project-3 on / as alice\n\
             rule: [[rooms]] 1 (\"project-{id}\"), allow: claim projects contains \"{id}\"\n\
             why: {id} is \"3\"; the claim projects is a list of 2 and does not contain \"3\"\n",
        ),
        (
            &["--join", "project-1"],
            "denied: join project-1 on / without an identity\n\
             rule: [[rooms]] 1 (\"project-{id}\"), allow: claim projects contains \"{id}\"\n\
             why: {id} is \"1\"; there is no valid token\n",
        ),
        (
            &["--join", "lobby"],
            "allowed: join lobby on / without an identity\nrule: no rule\nwhy: no rule fits the name, and then anyone may\n",
        ),
        (
            &["--join", "lobby", "--namespace", "/media"],
            "denied: join lobby on /media without an identity\nrule: [[rooms]] 2 (\"*\"), allow: nobody\nwhy: nobody may\n",
        ),
        (
            &["--join", "lobby", "--auth-required"],
            "denied: join lobby on / without an identity\n\
             rule: AUTH_REQUIRED\nwhy: AUTH_REQUIRED is true, and there is no valid token\n",
        ),
        (
            &["--token", &token, "--join", "user:bob"],
            "denied: join user:bob on / as alice\n\
             rule: reserved\nwhy: a room that begins with user: is that user's alone\n",
        ),
        (
            &["--token", &token, "--subscribe", "team-red-1", "--owner", "bob"],
            "allowed: subscribe team-red-1 of bob on /media as alice\n\
             rule: [[media]] 1 (\"team-{team}-*\"), allow_owned: claim team equals \"{team}\"\n\
             why: {team} is \"red\"; the claim team is \"red\"\n",
        ),
        (
            &["--token", "a.b.c", "--subscribe", "m", "--owner", "bob"],
            "denied: subscribe m of bob on /media without an identity\n\
             token: Token is invalid\n\
             rule: no rule\nwhy: no rule fits the name, and the item has another owner\n",
        ),
    ];
    for (args, expected) in cases {
        assert_eq!(explain(&place, args).ok().stdout, expected, "{args:?}");
    }
}

#[test]
fn explain_answers_programs_in_json() {
    let place = place();
    let answer = |args: &[&str]| -> Value {
        let args = [args, &["--json"]].concat();
        serde_json::from_str(&explain(&place, &args).ok().stdout).expect("JSON")
    };
    assert_eq!(
        answer(&["--token", &token(&place, &[]), "--join", "project-1"]),
        json!({
            "allowed": true, "action": "join", "name": "project-1", "namespace": "/", "userId": "alice",
            "rule": r#"[[rooms]] 1 ("project-{id}"), allow: claim projects contains "{id}""#,
            "why": [r#"{id} is "1""#, r#"the claim projects contains "1""#],
        })
    );
    assert_eq!(
        answer(&["--token", &token(&place, &["--expires-in", "-1s"]), "--subscribe", "m", "--owner", "alice"]),
        json!({
            "allowed": false, "action": "subscribe", "name": "m", "namespace": "/media", "owner": "alice",
            "tokenError": "Token has expired", "rule": "no rule",
            "why": ["no rule fits the name, and the item has another owner"],
        })
    );
}

#[test]
fn explain_needs_one_question() {
    let place = place();
    for args in [
        &[][..],
        &["--join", "a", "--subscribe", "b"],
        &["--join", "a", "--owner", "b"],
        &["--join", "a", "--namespace", "/admin"],
        &["--subscribe", "a", "--namespace", "/"],
        &["--join", ""],
    ] {
        explain(&place, args).refused();
    }
}

#[test]
fn a_new_key_is_printed_with_its_entry() {
    let place = Place::new();
    let args = ["key", "new", "--name", "ren\"derer", "--scope", "media:render-*", "--scope", "rooms"];
    let printed = place.run(&args).ok().stdout;
    let key = printed.lines().nth(1).and_then(|line| line.strip_prefix("# ")).expect("the key");
    assert!(key.starts_with("slop_") && key.len() == 69, "{key}");
    // What was printed is an entry as it stands, and has no more of the key than its hash once the comments are gone.
    let entry: String = printed.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    assert!(!entry.contains(key.trim_start_matches("slop_")));
    place.write("slop.toml", &entry);
    let ran = place.run_with(&["check-config", "--config", "slop.toml"], &[("JWT_SECRET", SECRET)]).ok();
    let line = "[[publisher_keys]] 1 = ren\"derer for media:render-*, rooms (file)";
    assert!(ran.stdout.lines().any(|found| found == line), "{ran:#?}");
    assert!(!ran.stderr.contains("nothing can be published"), "{ran:#?}");

    let json: Value = serde_json::from_str(&place.run(&[&args[..], &["--json"]].concat()).ok().stdout).expect("JSON");
    assert_ne!(json["key"], key);
    let hash = slop_studios::publishers::KeyHash::of(json["key"].as_str().expect("a key")).to_string();
    assert_eq!((&json["hash"], &json["scopes"]), (&json!(hash), &json!(["media:render-*", "rooms"])));
}

#[test]
fn a_key_without_a_good_scope_is_not_made() {
    let place = Place::new();
    for args in [&["--name", "a"][..], &["--scope", "media"], &["--name", "", "--scope", "media"]] {
        place.run(&[&["key", "new"], args].concat()).refused();
    }
    let ran = place.run(&["key", "new", "--name", "a", "--scope", "medai:x"]).refused();
    assert!(ran.stderr.contains("did you mean media?"), "{ran:#?}");
}

#[test]
fn the_tables_are_checked_and_shown() {
    let place = place();
    let secret = [("JWT_SECRET", SECRET)];
    let ran = place.run_with(&["check-config", "--config", "slop.toml"], &secret).ok();
    for line in [
        r#"[[rooms]] 1 = project-{id} for claim projects contains "{id}" (file)"#,
        "[[rooms]] 2 = * on /media for nobody (file)",
        r#"[[media]] 1 = team-{team}-* for authenticated; with an owner, for claim team equals "{team}" besides (file)"#,
    ] {
        assert!(ran.stdout.lines().any(|found| found == line), "{line}\n{ran:#?}");
    }
    let open = "warning: clients without a token can join any room that no rule names";
    assert!(ran.stderr.contains(open), "{ran:#?}");

    place.write("slop.toml", "[[room]]\nname = \"a\"\n[[rooms]]\nname = \"a\"\nallow = \"all\"\nnamspace = \"/\"\n");
    let ran = place.run_with(&["check-config", "--config", "slop.toml"], &secret).refused();
    for part in [
        "error: unknown setting `room` in slop.toml; did you mean `rooms`?",
        "error: [[rooms]] 1 in slop.toml: `allow` is \"all\", but must be \"anyone\"",
        "error: [[rooms]] 1 in slop.toml: has the unknown key `namspace`; did you mean `namespace`?",
    ] {
        assert!(ran.stderr.contains(part), "{part}\n{ran:#?}");
    }
}
