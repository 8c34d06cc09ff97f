//! Where settings come from, which wins, and what a wrong one is told.

use std::ffi::OsStr;

use crate::{Place, Ran, SECRET};

fn row<'a>(ran: &'a Ran, name: &str) -> &'a str {
    ran.stdout
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))
        .unwrap_or_else(|| panic!("no {name} in {ran:#?}"))
}

#[test]
fn a_flag_wins_over_the_environment_that_over_the_file_that_over_the_default() {
    let place = Place::new();
    place.write("slop.toml", "port = 4001\nping_interval_ms = 4002\nping_timeout_ms = 4003\nauth_required = true\n");
    let ran = place
        .run_with(
            &["check-config", "--config", "slop.toml", "--port", "6001"],
            &[("JWT_SECRET", SECRET), ("PORT", "5001"), ("PING_INTERVAL_MS", "5002")],
        )
        .ok();
    assert_eq!(row(&ran, "PORT"), "6001 (flag)");
    assert_eq!(row(&ran, "PING_INTERVAL_MS"), "5002 (env)");
    assert_eq!(row(&ran, "PING_TIMEOUT_MS"), "4003 (file)");
    assert_eq!(row(&ran, "AUTH_REQUIRED"), "true (file)");
    assert_eq!(row(&ran, "CONNECT_TIMEOUT_MS"), "45000 (default)");
}

#[test]
fn the_defaults_are_those_that_the_design_names() {
    let ran = Place::new().run_with(&["check-config"], &[("JWT_SECRET", SECRET)]).ok();
    for (name, value) in [
        ("HOST", "0.0.0.0"),
        ("PORT", "3000"),
        ("DATA_DIR", "./data"),
        ("AUTH_REQUIRED", "false"),
        ("LOG_FORMAT", "text"),
        ("ACCESS_LOG", "false"),
        ("SERVE_CLIENT", "true"),
        ("PING_INTERVAL_MS", "25000"),
        ("PING_TIMEOUT_MS", "20000"),
        ("CONNECT_TIMEOUT_MS", "45000"),
        ("MAX_PAYLOAD_BYTES", "1000000"),
        ("SHUTDOWN_GRACE_MS", "10000"),
        ("MAX_CONNECTIONS", "100000"),
        ("MAX_CONNECTIONS_PER_ADDRESS", "20000"),
        ("CONNECTION_RATE_PER_ADDRESS", "2000"),
        ("MAX_HANDSHAKES", "10000"),
        ("MAX_HANDSHAKES_PER_ADDRESS", "5000"),
        ("BASE_PATH", "\"\""),
        ("MAX_HEADER_BYTES", "32768"),
        ("HEADER_TIMEOUT_MS", "10000"),
        ("KEEP_ALIVE_TIMEOUT_MS", "75000"),
        ("BODY_TIMEOUT_MS", "30000"),
        ("REQUEST_RATE_PER_SESSION", "100"),
        ("EVENT_RATE_PER_SOCKET", "1000"),
        ("EVENT_RATE_PER_USER", "5000"),
        ("MAX_ATTACHMENTS", "64"),
        ("MAX_JSON_DEPTH", "127"),
        ("MAX_PENDING_ACKS", "1000"),
        ("MAX_UNFINISHED_BYTES", "67108864"),
        ("MAX_UNARRIVED_BYTES", "268435456"),
        ("MAX_ROOMS", "1000000"),
        ("PUBLISH_RATE_PER_KEY", "10000"),
        ("STORE_SYNC", "full"),
        ("LOG_RETENTION_HOURS", "24"),
        ("MEDIA_RETENTION_DAYS", "30"),
        ("NOTIFICATION_RETENTION_DAYS", "90"),
        ("JWT_LEEWAY_SECONDS", "0"),
        ("JWT_MAX_LIFETIME_DAYS", "365"),
        ("JWKS_COOLDOWN_MS", "30000"),
        ("JWKS_MAX_AGE_MS", "600000"),
        ("TOKEN_EXPIRING_NOTICE_MS", "0"),
    ] {
        assert_eq!(row(&ran, name), format!("{value} (default)"), "{name}");
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    assert_eq!(row(&ran, "SHARDS"), format!("{cores} (default)"));
}

#[test]
fn an_empty_variable_is_not_set() {
    let place = Place::new();
    place.write("slop.toml", "port = 4001\n");
    let ran = place.run_with(&["check-config", "--config", "slop.toml"], &[("JWT_SECRET", SECRET), ("PORT", "")]).ok();
    assert_eq!(row(&ran, "PORT"), "4001 (file)");
}

#[test]
fn secrets_are_masked_wherever_they_come_from() {
    let place = Place::new();
    let secrets = [SECRET, "publisher-key-number-one", "publisher-key-number-two"];
    place.write("slop.toml", &format!("jwt_secret = {SECRET:?}\napi_keys = {:?}\n", &secrets[1..]));
    let from_file = place.run(&["check-config", "--config", "slop.toml"]).ok();
    assert_eq!(row(&from_file, "JWT_SECRET"), "******** (file)");
    assert_eq!(row(&from_file, "API_KEYS"), "********,******** (file)");
    let from_flags = place
        .run(&[
            "check-config",
            "--jwt-secret",
            SECRET,
            "--api-keys",
            "publisher-key-number-one, publisher-key-number-two",
        ])
        .ok();
    assert_eq!(row(&from_flags, "API_KEYS"), "********,******** (flag)");
    for ran in [from_file, from_flags] {
        for secret in secrets {
            assert!(!ran.stdout.contains(secret), "{ran:#?}");
            assert!(!ran.stderr.contains(secret), "{ran:#?}");
        }
    }
}

#[test]
fn a_broken_value_of_a_secret_is_not_shown() {
    let place = Place::new();
    let ran = place
        .run_with(
            &["check-config"],
            &[("JWT_SECRET", "hidden-secret-with-a-line-break\n"), ("API_KEYS", "fine-key,hidden key")],
        )
        .refused();
    assert!(ran.stderr.contains("JWT_SECRET (from env)"), "{ran:#?}");
    assert!(ran.stderr.contains("API_KEYS (from env)"), "{ran:#?}");
    assert!(!ran.stderr.contains("hidden"), "{ran:#?}");

    place.write("slop.toml", "port = 1\njwt_secret = \"hidden");
    let ran = place.run(&["check-config", "--config", "slop.toml"]).refused();
    assert!(ran.stderr.contains("slop.toml: line 2"), "{ran:#?}");
    assert!(!ran.stderr.contains("hidden"), "{ran:#?}");
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_name() {
    let place = Place::new();
    place.write(
        "slop.toml",
        "prot = 1\nloglevel = \"info\"\nPING-TIMEOUT-MS = 5\nmemcached = \"x\"\n[network]\nport = 1\n",
    );
    let ran = place.run_with(&["check-config", "--config", "slop.toml"], &[("JWT_SECRET", SECRET)]).refused();
    for line in [
        "error: unknown setting `prot` in slop.toml; did you mean `port`?",
        "error: unknown setting `loglevel` in slop.toml; did you mean `log_level`?",
        "error: unknown setting `PING-TIMEOUT-MS` in slop.toml; did you mean `ping_timeout_ms`?",
        "error: unknown setting `memcached` in slop.toml",
        "error: [network] in slop.toml is no table of this file: settings such as `port` stand at its top, in none",
    ] {
        assert!(ran.stderr.lines().any(|found| found == line), "{line}\n{ran:#?}");
    }
}

#[test]
fn every_error_is_listed_with_its_setting_and_origin() {
    let place = Place::new();
    place.write("slop.toml", "shards = 0\nport = \"80\"\nhost = \"localhost:80\"\n");
    let ran = place
        .run_with(
            &["check-config", "--config", "slop.toml", "--ping-interval-ms", "-1"],
            &[("PING_TIMEOUT_MS", "0"), ("CORS_ORIGIN", "https://a.example.com/b"), ("STORE_SYNC", "off")],
        )
        .refused();
    for part in [
        "JWT_SECRET is not set",
        "HOST (from `host` in slop.toml)",
        "PORT (from `port` in slop.toml) must be a whole number",
        "SHARDS (from `shards` in slop.toml) is \"0\"",
        "PING_INTERVAL_MS (from --ping-interval-ms) is \"-1\"",
        "PING_TIMEOUT_MS (from env) is \"0\"",
        "CORS_ORIGIN (from env) has \"https://a.example.com/b\": there is more than scheme, host and port",
        "STORE_SYNC (from env) is \"off\", not full or normal",
    ] {
        assert!(ran.stderr.contains(part), "{part}\n{ran:#?}");
    }
}

/// Those of the texts, of what they say together, and of the files that they name.
#[test]
fn all_errors_are_said_at_once() {
    let place = Place::new();
    place.write("cert.pem", "");
    let text = "shards = 0\noutbox_soft_bytes = 9\noutbox_hard_bytes = 8\nmax_rooms = 1\njwt_public_keys = [\"a.pem\", \"b.pem\"]\n\
                tls_cert_file = \"cert.pem\"\ntls_key_file = \"none.pem\"\n[[rooms]]\nname = \"a\"\n";
    place.write("slop.toml", text);
    let ran = place.run_with(&["check-config", "--config", "slop.toml"], &[("PORT", "x"), ("DATA_DIR", "cert.pem")]);
    let ran = ran.refused();
    let expected = [
        "[[rooms]] 1 in slop.toml: `allow` is required",
        "PORT (from env) is \"x\"",
        "SHARDS (from `shards` in slop.toml) is \"0\"",
        "OUTBOX_SOFT_BYTES (9) is above OUTBOX_HARD_BYTES (8)",
        "MAX_ROOMS (1) is below MAX_ROOMS_PER_SOCKET",
        "JWT_PUBLIC_KEYS: can't read a.pem",
        "JWT_PUBLIC_KEYS: can't read b.pem",
        "TLS_CERT_FILE: cert.pem has no certificate",
        "TLS_KEY_FILE: can't read none.pem",
        "DATA_DIR is cert.pem, but it is a file",
    ];
    for part in expected {
        assert_eq!(ran.stderr.matches(&format!("error: {part}")).count(), 1, "{part}\n{ran:#?}");
    }
    assert_eq!(ran.stderr.lines().count(), expected.len(), "{ran:#?}");
}

#[test]
fn a_variable_that_is_nearly_a_setting_is_warned_about() {
    let place = Place::new();
    let check = |name: &str| place.run_with(&["check-config"], &[("JWT_SECRET", SECRET), (name, "hidden")]).ok();
    for (variable, setting) in [
        ("PING_INTERVALL_MS", "PING_INTERVAL_MS"),
        ("LOG_LEVLE", "LOG_LEVEL"),
        ("DATADIR", "DATA_DIR"),
        ("CORS_ORIGINS", "CORS_ORIGIN"),
        ("JWT_SECRE7", "JWT_SECRET"),
        ("store_sync", "STORE_SYNC"),
        // What `publish` sends, on a server that has no key.
        ("API_KEY", "API_KEYS"),
    ] {
        let ran = check(variable);
        let told = format!("warning: the variable {variable} is no setting and has no effect; did you mean {setting}?");
        assert!(ran.stderr.lines().any(|line| line == told), "{told}\n{ran:#?}");
        assert!(!ran.stderr.contains("hidden"), "{ran:#?}");
    }
    // With an error, it may be the reason.
    let ran = place.run_with(&["check-config"], &[("JWT_SECRT", "hidden")]).refused();
    let told = "warning: the variable JWT_SECRT is no setting and has no effect; did you mean JWT_SECRET?";
    assert!(ran.stderr.lines().any(|line| line == told), "{ran:#?}");
    for other in ["HOSTNAME", "HOME", "PATH", "PORT_RANGE", "LOG", "JWT"] {
        assert!(!check(other).stderr.contains("the variable"), "{other}");
    }
    let keys = [("JWT_SECRET", SECRET), ("API_KEYS", "a-publisher-key-of-32-bytes-or-more"), ("API_KEY", "hidden")];
    assert!(!place.run_with(&["check-config"], &keys).ok().stderr.contains("the variable"));
    // `serve` says it too.
    let ran =
        place.run_with(&["serve", "--host", "192.0.2.1"], &[("JWT_SECRET", SECRET), ("LOG_LEVLE", "debug")]).failed();
    assert!(ran.stderr.contains("LOG_LEVLE is no setting"), "{ran:#?}");
}

/// In TOML, what stands below a table's head is the table's.
#[test]
fn a_setting_below_a_table_is_told_where_it_belongs() {
    let place = Place::new();
    place.write("slop.toml", "[[rooms]]\nname = \"*\"\nallow = \"anyone\"\n\nport = 4000\njwt_secret = \"hidden\"\n");
    let check = || place.run_with(&["check-config", "--config", "slop.toml"], &[("JWT_SECRET", SECRET)]).refused();
    let ran = check();
    for setting in ["port", "jwt_secret"] {
        let told = format!(
            "error: [[rooms]] 1 in slop.toml: has `{setting}`, which is a setting of the server: move it to the top of the \
             file, above the first table"
        );
        assert!(ran.stderr.lines().any(|line| line == told), "{told}\n{ran:#?}");
    }
    assert!(!ran.stderr.contains("hidden"), "{ran:#?}");

    // As a variable, or misspelt; a key that is nearer to one of the table's is that.
    place.write(
        "slop.toml",
        "[[rooms]]\nname = \"*\"\nallow = \"anyone\"\nDATA_DIR = \"x\"\ncors-orign = \"x\"\nalow = 1\nxyz = 1\n",
    );
    let ran = check();
    let setting = |written: &str, meant: &str| {
        format!(
            "error: [[rooms]] 1 in slop.toml: has the unknown key `{written}`; did you mean the setting `{meant}`? Settings \
             stand at the top of the file, above the first table"
        )
    };
    for told in [
        setting("DATA_DIR", "data_dir"),
        setting("cors-orign", "cors_origin"),
        "error: [[rooms]] 1 in slop.toml: has the unknown key `alow`; did you mean `allow`?".to_owned(),
        "error: [[rooms]] 1 in slop.toml: has the unknown key `xyz`".to_owned(),
    ] {
        assert!(ran.stderr.lines().any(|line| line == told), "{told}\n{ran:#?}");
    }
}

#[test]
fn a_path_that_is_nearly_right_is_told_the_right_one() {
    let place = Place::new();
    std::fs::create_dir(place.path().join("etc")).expect("a folder");
    place.write("etc/slop.toml", "");
    place.write("etc/cert.pem", "");
    let secret = [("JWT_SECRET", SECRET)];
    for wrong in ["etc/slop.tml", "etcc/slop.toml", "etc/Slop.toml"] {
        for command in ["check-config", "serve"] {
            let ran = place.run_with(&[command, "--config", wrong], &secret).refused();
            assert!(ran.stderr.contains("; did you mean etc/slop.toml?"), "{ran:#?}");
        }
    }
    let ran = place.run_with(&["check-config", "--jwt-public-keys", "etc/cert.pm"], &secret).failed();
    assert!(ran.stderr.contains("; did you mean etc/cert.pem?"), "{ran:#?}");
    let files = ["--tls-cert-file", "etc/certt.pem", "--tls-key-file", "etc/cert.pe"];
    let ran = place.run_with(&[&["check-config"], &files[..]].concat(), &secret).failed();
    assert_eq!(ran.stderr.matches("; did you mean etc/cert.pem?").count(), 2, "{ran:#?}");
    let ran = place.run(&["publish", "--key", "k", "ndjson", "etc/slop.tolm"]).failed();
    assert!(ran.stderr.contains("; did you mean etc/slop.toml?"), "{ran:#?}");
    let ran = place.run_with(&["check-config", "--config", "elsewhere/other.toml"], &secret).refused();
    assert!(!ran.stderr.contains("did you mean"), "{ran:#?}");
}

#[test]
fn zero_is_refused_where_it_makes_no_sense() {
    for name in [
        "PING_INTERVAL_MS",
        "PING_TIMEOUT_MS",
        "CONNECT_TIMEOUT_MS",
        "MAX_PAYLOAD_BYTES",
        "SHARDS",
        "OUTBOX_SOFT_BYTES",
        "OUTBOX_HARD_BYTES",
        "WRITE_STALL_MS",
        "MAX_ROOMS_PER_SOCKET",
        "AUTH_FAILURE_LIMIT",
        "MAX_CONNECTIONS",
        "MAX_HANDSHAKES",
        "MAX_HEADER_BYTES",
        "HEADER_TIMEOUT_MS",
        "KEEP_ALIVE_TIMEOUT_MS",
        "BODY_TIMEOUT_MS",
        "MAX_ATTACHMENTS",
        "MAX_JSON_DEPTH",
        "MAX_PENDING_ACKS",
        "MAX_UNFINISHED_BYTES",
        "MAX_UNARRIVED_BYTES",
        "MAX_ROOMS",
        "MAX_IDEMPOTENCY_KEYS",
        "LOG_RETENTION_HOURS",
        "LOG_MAX_BYTES",
        "MEDIA_RETENTION_DAYS",
        "NOTIFICATION_RETENTION_DAYS",
        "JWT_MAX_LIFETIME_DAYS",
        "JWKS_COOLDOWN_MS",
        "JWKS_MAX_AGE_MS",
    ] {
        let ran = Place::new().run_with(&["check-config"], &[("JWT_SECRET", SECRET), (name, "0")]).refused();
        assert!(ran.stderr.contains(&format!("error: {name} (from env) is \"0\"")), "{ran:#?}");
    }
    Place::new().run_with(&["check-config", "--port=0", "--shutdown-grace-ms=0"], &[("JWT_SECRET", SECRET)]).ok();
}

#[test]
fn some_limits_may_be_none_at_all() {
    for name in [
        "MAX_CONNECTIONS_PER_ADDRESS",
        "CONNECTION_RATE_PER_ADDRESS",
        "MAX_HANDSHAKES_PER_ADDRESS",
        "REQUEST_RATE_PER_SESSION",
        "EVENT_RATE_PER_SOCKET",
        "EVENT_RATE_PER_USER",
        "PUBLISH_RATE_PER_KEY",
    ] {
        let ran = Place::new().run_with(&["check-config"], &[("JWT_SECRET", SECRET), (name, "0")]).ok();
        assert_eq!(row(&ran, name), "0 (env)");
        let ran = Place::new().run_with(&["check-config"], &[("JWT_SECRET", SECRET), (name, "-1")]).refused();
        assert!(ran.stderr.contains(&format!("error: {name} (from env) is \"-1\"")), "{ran:#?}");
    }
}

#[test]
fn whose_tokens_are_accepted_is_said_or_left_open() {
    for name in ["JWT_ISSUER", "JWT_AUDIENCE"] {
        let run = |value| Place::new().run_with(&["check-config"], &[("JWT_SECRET", SECRET), (name, value)]);
        for value in ["", "https://id.example.com", "a, b,"] {
            run(value).ok();
        }
        for nobody in [",", " ", " , ,"] {
            let ran = run(nobody).refused();
            let error = format!("error: {name} (from env) is {nobody:?}, which names none");
            assert!(ran.stderr.contains(&error), "{ran:#?}");
        }
        let place = Place::new();
        let key = name.to_lowercase();
        let of_file = |list: &str| {
            place.write("slop.toml", &format!("jwt_secret = {SECRET:?}\n{key} = {list}\n"));
            place.run(&["check-config", "--config", "slop.toml"])
        };
        of_file("[]").ok();
        of_file(r#"["a", "b"]"#).ok();
        let faults =
            [(r#"[""]"#, "an empty element"), (r#"["a", " "]"#, "an empty element"), (r#"["a,b"]"#, "a comma")];
        for (list, fault) in faults {
            let ran = of_file(list).refused();
            assert!(ran.stderr.contains(&format!("error: {name} (from `{key}` in slop.toml) has ")), "{ran:#?}");
            assert!(ran.stderr.contains(fault), "{ran:#?}");
        }
    }
}

#[test]
fn an_algorithm_that_nobody_knows_is_no_part_of_a_file() {
    let run = |value| Place::new().run_with(&["check-config"], &[("JWT_PUBLIC_KEYS", value)]);
    let ran = run("XX256:/nope.pem").refused();
    let error = r#"error: JWT_PUBLIC_KEYS (from env) has "XX256:/nope.pem": there is no algorithm XX256"#;
    assert!(ran.stderr.contains(error), "{ran:#?}");
    for file in ["keys:one.pem", "/nope/A:b.pem", ":nope.pem"] {
        let ran = run(file);
        assert!(ran.stderr.contains(&format!("can't read {file}")), "{ran:#?}");
    }
}

#[test]
fn proxies_are_networks() {
    let run = |value| Place::new().run_with(&["check-config"], &[("JWT_SECRET", SECRET), ("TRUSTED_PROXIES", value)]);
    let ran = run("10.0.0.0/8, fd00::/8,192.0.2.1").ok();
    assert!(!ran.stderr.contains("TRUSTED_PROXIES"), "{ran:#?}");
    for wrong in ["balancer", "10.0.0.0/33", "10.0.0.0/8;192.0.2.1", "10.0.0"] {
        let ran = run(wrong).refused();
        assert!(ran.stderr.contains("error: TRUSTED_PROXIES (from env) has "), "{ran:#?}");
    }
    let ran = run("0.0.0.0/0").ok();
    assert!(ran.stderr.contains("warning: TRUSTED_PROXIES has the whole internet"), "{ran:#?}");
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let place = Place::new();
    let secret = [("JWT_SECRET", SECRET)];
    let ran =
        place.run_with(&["check-config", "--outbox-soft-bytes=2000", "--outbox-hard-bytes=1000"], &secret).refused();
    assert!(ran.stderr.contains("OUTBOX_SOFT_BYTES"), "{ran:#?}");
    assert!(ran.stderr.contains("OUTBOX_HARD_BYTES"), "{ran:#?}");

    let ran =
        place.run_with(&["check-config", "--max-payload-bytes=2000", "--max-unfinished-bytes=1000"], &secret).refused();
    assert!(ran.stderr.contains("MAX_UNFINISHED_BYTES"), "{ran:#?}");

    for (name, flag) in [("MAX_UNARRIVED_BYTES", "--max-unarrived-bytes=1000"), ("MAX_ROOMS", "--max-rooms=999")] {
        let ran = place.run_with(&["check-config", flag], &secret).refused();
        assert!(ran.stderr.contains(&format!("error: {name} ")), "{ran:#?}");
    }

    let ran = place.run_with(&["check-config", "--ping-interval-ms=2147483647"], &secret).refused();
    assert!(ran.stderr.contains("PING_TIMEOUT_MS"), "{ran:#?}");
}

#[test]
fn origins_are_checked() {
    for (origins, part) in [
        ("example.com", "an origin has the form"),
        ("https://", "an origin has the form"),
        ("https://a.example.com/path", "an origin has the form"),
        ("https://a.example.com:99999", "the port is not a number"),
        ("https://*.example.com", "`*` can't stand for a part"),
        ("https://user@a.example.com", "more than scheme, host and port"),
        ("https://müller.example", "xn--"),
        ("null", "`null` is that of any sandboxed frame"),
        ("*,https://a.example.com", "`*` beside other origins"),
        ("https://a.example.com,*", "`*` beside other origins"),
    ] {
        let ran =
            Place::new().run_with(&["check-config"], &[("JWT_SECRET", SECRET), ("CORS_ORIGIN", origins)]).refused();
        assert!(ran.stderr.contains(part), "{ran:#?}");
    }
    Place::new()
        .run_with(
            &[
                "check-config",
                "--cors-origin",
                "https://A.example.com/, wss://b.example.com:443, http://localhost:5173, http://[::1], capacitor://localhost",
            ],
            &[("JWT_SECRET", SECRET)],
        )
        .ok();
}

#[test]
fn a_base_path_is_a_path() {
    let run = |value| Place::new().run_with(&["check-config"], &[("JWT_SECRET", SECRET), ("BASE_PATH", value)]);
    for path in ["", "/", "/realtime", "/realtime/", "/a/b-1.2_3~"] {
        run(path).ok();
    }
    for (path, part) in [
        ("realtime", "begins with a slash"),
        ("https://studio.example/realtime", "begins with a slash"),
        ("//", "single slashes"),
        ("/a//b", "single slashes"),
        ("/a/../b", "single slashes"),
        ("/a b", "single slashes"),
        ("/a%20b", "single slashes"),
        ("/a?b", "single slashes"),
        ("/socket.io", "paths of its own that begin with /socket.io"),
        ("/v1/realtime", "paths of its own that begin with /v1"),
    ] {
        let ran = run(path).refused();
        assert!(ran.stderr.contains("error: BASE_PATH (from env) is "), "{ran:#?}");
        assert!(ran.stderr.contains(part), "{part}\n{ran:#?}");
    }
}

#[test]
fn what_is_allowed_but_doubtful_is_warned_about() {
    let ran = Place::new().run_with(&["check-config"], &[("JWT_SECRET", "short")]).ok();
    assert!(ran.stderr.contains("warning: JWT_SECRET is shorter"), "{ran:#?}");
    assert!(ran.stderr.contains("warning: API_KEYS is empty"), "{ran:#?}");
    assert!(!ran.stderr.contains("\"short\""), "{ran:#?}");
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_no_text_is_named() {
    use std::os::unix::ffi::OsStrExt as _;
    let ran = Place::new()
        .run_with(&["check-config"], &[("JWT_SECRET", OsStr::new(SECRET)), ("HOST", OsStr::from_bytes(b"\xff"))])
        .refused();
    assert!(ran.stderr.contains("HOST (from env) is not UTF-8"), "{ran:#?}");
}

#[test]
fn a_missing_file_is_the_only_error_about_it() {
    let ran = Place::new().run(&["check-config", "--config", "nowhere.toml"]).refused();
    assert!(ran.stderr.contains("nowhere.toml"), "{ran:#?}");
    assert!(!ran.stderr.contains("JWT_SECRET"), "{ran:#?}");
}

#[test]
fn serve_without_a_secret_refuses_and_says_how_to_make_one() {
    let ran = Place::new().run(&["serve", "--port", "0"]).refused();
    assert!(ran.stderr.contains("JWT_SECRET is not set"), "{ran:#?}");
    assert!(ran.stderr.contains("openssl rand -hex 32"), "{ran:#?}");
}

#[test]
fn an_unknown_flag_is_a_usage_error() {
    let ran = Place::new().run(&["serve", "--prot", "1"]).refused();
    assert!(ran.stderr.contains("--port"), "{ran:#?}");
}

#[test]
fn tokens_can_be_verified_without_a_secret() {
    let place = Place::new();
    let ran = place.run(&["check-config", "--jwks-url", "https://id.example.com/keys"]).ok();
    assert_eq!(row(&ran, "JWT_SECRET"), "\"\" (default)");
    assert!(!ran.stderr.contains("JWKS_URL"), "{ran:#?}");
    let ran = place.run(&["check-config", "--jwks-url", "http://id.example.com/keys"]).ok();
    assert!(ran.stderr.contains("warning: JWKS_URL is not https"), "{ran:#?}");
    let ran = place.run(&["check-config", "--jwks-url", "http://127.0.0.1:8080/keys"]).ok();
    assert!(!ran.stderr.contains("JWKS_URL"), "{ran:#?}");
    for wrong in ["ftp://id.example.com", "id.example.com/keys", "https://", "https://me:secret@id.example.com/keys"] {
        let ran = place.run(&["check-config", "--jwks-url", wrong]).refused();
        assert!(ran.stderr.contains("JWKS_URL (from --jwks-url)"), "{ran:#?}");
    }
}

#[test]
fn a_secret_may_have_commas_and_earlier_ones_are_long() {
    let place = Place::new();
    let earlier = ["first-of-the-earlier-secrets-0123456789", "second-of-the-earlier-secrets-0123456789"];
    let env = [("JWT_SECRET", "a secret, with commas, of the owner"), ("JWT_PREVIOUS_SECRETS", &earlier.join(", "))];
    let ran = place.run_with(&["check-config"], &env).ok();
    assert_eq!(row(&ran, "JWT_SECRET"), "******** (env)");
    assert_eq!(row(&ran, "JWT_PREVIOUS_SECRETS"), "********,******** (env)");
    // The half of one could be guessed.
    let env = [("JWT_SECRET", SECRET), ("JWT_PREVIOUS_SECRETS", "hidden-secret-with-a-comma-0123456789,here")];
    let ran = place.run_with(&["check-config"], &env).refused();
    assert!(ran.stderr.contains("JWT_PREVIOUS_SECRETS (from env) has a secret at place 2"), "{ran:#?}");
    assert!(!ran.stderr.contains("hidden"), "{ran:#?}");
}

#[test]
fn files_of_public_keys_are_checked() {
    let place = Place::new();
    // RFC 8410, section 10.1.
    let key = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    place.write("key.pem", key);
    place.write("private.pem", &key.replace("PUBLIC", "PRIVATE"));
    place.run(&["check-config", "--jwt-public-keys", "key.pem, EdDSA:key.pem"]).ok();
    for (files, part) in [
        ("missing.pem", "can't read missing.pem"),
        ("key.pem,private.pem", "private.pem holds a private key"),
        ("RS256:key.pem", "can't be used for RS256"),
    ] {
        let ran = place.run(&["check-config", "--jwt-public-keys", files]).failed();
        assert!(ran.stderr.contains(part), "{ran:#?}");
    }
    let ran = place.run(&["check-config", "--jwt-public-keys", "HS256:key.pem"]).refused();
    assert!(ran.stderr.contains("a public key is no secret"), "{ran:#?}");
}

#[test]
fn emitters_are_those_of_socket_io_and_need_redis() {
    let place = Place::new();
    for (settings, line) in [
        (&[("EMITTERS", "redis,kafka")][..], r#"EMITTERS (from env) has "kafka", not redis, streams or python"#),
        (&[("EMITTERS", "redis")], "EMITTERS is set and REDIS_URL is not: emitters publish over Redis"),
        (
            &[("EMITTER_EVENTS", "/:*,/chat:*")],
            r#"EMITTER_EVENTS (from env) has "/chat:*", not a namespace, a colon and an event, as /media:mediaProgress or /:*"#,
        ),
        (
            &[("EMITTER_EVENTS", "/:connect")],
            r#"EMITTER_EVENTS (from env) has "/:connect", which Socket.IO reserves for itself"#,
        ),
    ] {
        let settings: Vec<_> = [("JWT_SECRET", SECRET)].into_iter().chain(settings.iter().copied()).collect();
        let ran = place.run_with(&["check-config"], &settings).refused();
        assert!(ran.stderr.contains(line), "{line}\n{ran:#?}");
    }
}
