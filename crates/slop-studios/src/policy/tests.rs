//! The decisions of the rules, as a table.

use serde_json::json;

use super::*;
use crate::config::Tables;

/// The policy of a configuration text.
fn policy(text: &str, auth_required: bool) -> Policy {
    let tables = Tables::parse(text).expect("good tables");
    Policy::new(tables.rules, auth_required)
}

/// An identity with these claims, reduced to the claims that the policy needs.
fn identity(policy: &Policy, user: &str, claims: &serde_json::Value) -> Identity {
    let claims = policy.claims().of(&serde_json::value::to_raw_value(claims).expect("JSON"));
    Identity { user_id: user.to_owned(), claims, ..Identity::default() }
}

const RULES: &str = r#"
    [[rooms]]
    name = "project-{id}"
    allow = { claim = "projects", contains = "{id}" }
    [[rooms]]
    name = "team-{team}/*"
    allow = [{ claim = "team", equals = "{team}" }, { claim = ["realm", "roles"], contains = "admin" }]
    [[rooms]]
    name = "chat-{a}-{b}"
    allow = [{ user = "{a}" }, { user = "{b}" }]
    [[rooms]]
    name = "jobs"
    namespace = "/media"
    allow = "authenticated"
    [[rooms]]
    name = "lobby"
    allow = "anyone"
    [[rooms]]
    name = "*"
    allow = "nobody"

    [[media]]
    name = "team-{team}-*"
    allow = { claim = "team", equals = "{team}" }
    allow_owned = { claim = "team", equals = "{team}" }
    [[media]]
    name = "draft-*"
    allow = "nobody"
    [[media]]
    name = "shown-*"
    allow = "anyone"
    allow_owned = "anyone"
"#;

#[test]
fn the_first_rule_that_fits_decides_who_joins() {
    let policy = policy(RULES, false);
    let alice = identity(&policy, "alice", &json!({"projects": [1, "2"], "team": "red"}));
    let bob = identity(&policy, "bob", &json!({"projects": "1 3", "team": ["red"]}));
    let root = identity(&policy, "root", &json!({"realm": {"roles": ["admin"]}, "projects": {"1": true}}));
    for (room, [by_alice, by_bob, by_root, by_nobody]) in [
        ("project-1", [true, true, false, false]),
        ("project-2", [true, false, false, false]),
        ("project-3", [false, true, false, false]),
        ("project-", [false; 4]),
        ("project-1 3", [false; 4]),
        ("team-red/a", [true, false, true, false]),
        ("team-blue/a", [false, false, true, false]),
        ("chat-alice-bob", [true, true, false, false]),
        ("chat-root-alice", [true, false, true, false]),
        ("jobs", [false; 4]),
        ("lobby", [true; 4]),
        ("Lobby", [false; 4]),
        ("anything", [false; 4]),
    ] {
        let may = |identity| policy.join(identity, "/", room).allowed;
        assert_eq!(
            [may(Some(&alice)), may(Some(&bob)), may(Some(&root)), may(None)],
            [by_alice, by_bob, by_root, by_nobody],
            "{room}"
        );
    }
    assert!(policy.join(Some(&root), "/media", "jobs").allowed);
    assert!(!policy.join(None, "/media", "jobs").allowed);
}

#[test]
fn an_item_is_its_owners_and_whose_a_rule_says() {
    let policy = policy(RULES, false);
    let alice = identity(&policy, "alice", &json!({"team": "red"}));
    let bob = identity(&policy, "bob", &json!({"team": "blue"}));
    for (item, owner, [by_alice, by_bob, by_nobody]) in [
        ("m", None, [true, true, true]),
        ("m", Some("alice"), [true, false, false]),
        ("team-red-1", None, [true, false, false]),
        ("team-red-1", Some("bob"), [true, true, false]),
        ("team-red-1", Some("carol"), [true, false, false]),
        ("draft-1", None, [false, false, false]),
        ("draft-1", Some("bob"), [false, true, false]),
        ("shown-1", Some("carol"), [true, true, true]),
    ] {
        let may = |identity| policy.subscribe(identity, item, owner).allowed;
        assert_eq!(
            [may(Some(&alice)), may(Some(&bob)), may(None)],
            [by_alice, by_bob, by_nobody],
            "{item} of {owner:?}"
        );
    }
}

/// The contract: custom rooms are open, and an item with an owner is for its owner.
#[test]
fn without_rules_the_contract_decides() {
    let policy = policy("", false);
    let (a, b) = (identity(&policy, "a", &json!({})), identity(&policy, "b", &json!({})));
    assert!(policy.join(None, "/", "project-1").allowed && policy.join(Some(&a), "/", "project-1").allowed);
    assert!(policy.subscribe(None, "m", None).allowed && policy.subscribe(Some(&a), "m", Some("a")).allowed);
    assert!(!policy.subscribe(Some(&b), "m", Some("a")).allowed && !policy.subscribe(None, "m", Some("a")).allowed);
}

#[test]
fn where_a_token_is_required_no_rule_lets_in_without() {
    for rules in ["", RULES] {
        let policy = policy(rules, true);
        let a = identity(&policy, "a", &json!({}));
        assert!(!policy.join(None, "/", "lobby").allowed && !policy.subscribe(None, "shown-1", None).allowed);
        assert!(policy.join(Some(&a), "/", "lobby").allowed && policy.subscribe(Some(&a), "shown-1", None).allowed);
        assert_eq!(policy.open_to_anonymous(), None);
    }
}

#[test]
fn what_is_open_to_anonymous_clients_is_said() {
    let open = |text: &str| policy(text, false).open_to_anonymous().unwrap_or_default();
    assert_eq!(open(""), "join any room, and follow any media item without an owner");
    let lobby = "[[rooms]]\nname = 'lobby'\nallow = 'anyone'\n";
    let no_room = "[[rooms]]\nname = '*'\nallow = 'authenticated'\n";
    let no_item = "[[media]]\nname = '*'\nallow = 'nobody'\n";
    assert_eq!(open(&format!("{lobby}{no_item}")), "join any room that no rule names");
    assert_eq!(open(&format!("{lobby}{no_room}{no_item}")), "join some rooms");
    assert_eq!(open(&format!("{no_room}{no_item}")), "");
    let shown = "[[media]]\nname = 'a'\nallow = 'nobody'\nallow_owned = 'anyone'\n";
    assert_eq!(open(&format!("{no_room}{shown}{no_item}")), "follow media items of others");
}

#[test]
fn a_decision_names_its_rule_and_says_why() {
    let policy = policy(RULES, false);
    let alice = identity(&policy, "alice", &json!({"projects": ["1", "2"], "team": "red"}));
    let told = |decision: Decision<'_>, identity, name: &str| {
        format!("{}: {}", decision.ground, decision.ground.reasons(identity, name).join("; "))
    };
    let join = |identity, room: &str| told(policy.join(identity, "/", room), identity, room);
    let project = r#"[[rooms]] 1 ("project-{id}"), allow: claim projects contains "{id}""#;
    assert_eq!(
        join(Some(&alice), "project-1"),
        format!(r#"{project}: {{id}} is "1"; the claim projects contains "1""#)
    );
    assert_eq!(
        join(Some(&alice), "project-7"),
        format!(r#"{project}: {{id}} is "7"; the claim projects is a list of 2 and does not contain "7""#)
    );
    assert_eq!(join(None, "project-7"), format!(r#"{project}: {{id}} is "7"; there is no valid token"#));
    assert_eq!(
        join(Some(&alice), "team-blue/x"),
        r#"[[rooms]] 2 ("team-{team}/*"), allow: claim team equals "{team}" or claim realm → roles contains "admin": {team} is "blue"; the claim team is "red", not "blue"; the claim realm → roles is missing and does not contain "admin""#
    );
    assert_eq!(join(None, "x"), r#"[[rooms]] 6 ("*"), allow: nobody: nobody may"#);
    let subscribe = |item: &str, owner| told(policy.subscribe(Some(&alice), item, owner), Some(&alice), item);
    assert_eq!(subscribe("m", Some("bob")), "no rule: no rule fits the name, and the item has another owner");
    assert_eq!(subscribe("m", Some("alice")), "the owner: the item is the user's own");
    assert_eq!(subscribe("draft-1", Some("bob")), r#"[[media]] 2 ("draft-*"), allow_owned: nobody: nobody may"#);
}
