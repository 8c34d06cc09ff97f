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
             token: Token is invalid: it is no JSON Web Token in compact form, or of an algorithm that is not known here\n\
             rule: no rule\nwhy: no rule fits the name, and the item has another owner\n",
        ),
    ];
    for (args, expected) in cases {
        let ran = explain(&place, args);
        // The exit code is the answer too.
        let ran = if expected.starts_with("allowed") { ran.ok() } else { ran.failed() };
        assert_eq!(ran.stdout, expected, "{args:?}");
        assert_eq!(ran.stderr, "", "{args:?}");
    }
}

#[test]
fn explain_answers_programs_in_json() {
    let place = place();
    let answer = |args: &[&str]| -> Value {
        let ran = explain(&place, &[args, &["--json"]].concat());
        let answer: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        assert_eq!(ran.code, Some(if answer["allowed"] == true { 0 } else { 1 }), "{ran:#?}");
        answer
    };
    assert_eq!(
        answer(&["--token", &token(&place, &[]), "--join", "project-1"]),
        json!({
            "allowed": true, "action": "join", "name": "project-1", "namespace": "/", "userId": "alice",
            "rule": r#"[[rooms]] 1 ("project-{id}"), allow: claim projects contains "{id}""#,
            "why": [r#"{id} is "1""#, r#"the claim projects contains "1""#],
        })
    );
    let mut expired =
        answer(&["--token", &token(&place, &["--expires-in", "-1s"]), "--subscribe", "m", "--owner", "alice"]);
    let error = expired["tokenError"].take();
    assert!(error.as_str().is_some_and(|error| error.starts_with("Token has expired: its `exp` was ")), "{error}");
    assert_eq!(
        expired,
        json!({
            "allowed": false, "action": "subscribe", "name": "m", "namespace": "/media", "owner": "alice",
            "tokenError": null, "rule": "no rule",
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

/// The file is what standard output is appended to, so the key is not on it.
#[test]
fn a_new_key_is_told_and_its_entry_printed() {
    let place = Place::new();
    let args = ["key", "new", "--name", "ren\"derer", "--scope", "media:render-*", "--scope", "rooms"];
    let ran = place.run(&args).ok();
    let key = ran.stderr.lines().find(|line| line.starts_with("slop_")).expect("the key");
    assert!(key.len() == 69, "{key}");
    assert!(!ran.stdout.contains("slop_"), "{ran:#?}");
    place.write("slop.toml", &format!("log_level = \"warn\"{}", ran.stdout));
    let checked = place.run_with(&["check-config", "--config", "slop.toml"], &[("JWT_SECRET", SECRET)]).ok();
    let line = "[[publisher_keys]] 1 = ren\"derer for media:render-*, rooms (file)";
    assert!(checked.stdout.lines().any(|found| found == line), "{checked:#?}");
    assert!(!checked.stderr.contains("nothing can be published"), "{checked:#?}");

    let json: Value = serde_json::from_str(&place.run(&[&args[..], &["--json"]].concat()).ok().stdout).expect("JSON");
    assert_ne!(json["key"], key);
    let hash = slop_studios::publish::publishers::KeyHash::of(json["key"].as_str().expect("a key")).to_string();
    assert_eq!((&json["hash"], &json["scopes"]), (&json!(hash), &json!(["media:render-*", "rooms"])));
}

#[test]
fn a_file_with_a_key_in_plain_text_is_refused() {
    let place = Place::new();
    let made = place.run(&["key", "new", "--name", "a", "--scope", "media"]).ok();
    let key = made.stderr.lines().find(|line| line.starts_with("slop_")).expect("the key").to_owned();
    let check = |text: &str| {
        place.write("slop.toml", text);
        place.run_with(&["check-config", "--config", "slop.toml"], &[("JWT_SECRET", SECRET)])
    };
    for (text, line) in [
        // As it was printed once, for people.
        (format!("# The key:\n# {key}\n{}", made.stdout), 2),
        (made.stdout.replace("sha256:", &format!("{key}:")), 4),
        (format!("jwt_issuer = [\"{key}\"]\n"), 1),
    ] {
        let ran = check(&text).refused();
        let told = format!("error: line {line} of slop.toml has a publisher's key in plain text");
        assert!(ran.stderr.contains(&told), "{told}\n{ran:#?}");
        assert!(!ran.stderr.contains(&key), "{ran:#?}");
    }
    // One of the operator's own making is known by its hash.
    let own_key = "publisher-key-of-the-operators-making";
    let hash = slop_studios::publish::publishers::KeyHash::of(own_key);
    let entry = format!("[[publisher_keys]]\nname = \"b\"\nhash = \"{hash}\"\nscopes = [\"media\"]\n");
    check(&format!("# it is {own_key}, for now\n{entry}")).refused();
    check(&entry).ok();
    // That one is there to be plain.
    check(&format!("api_keys = [\"{key}\"]\n")).ok();
    check(&format!("api_keys = \"{key}, other-key\"\n")).ok();
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
