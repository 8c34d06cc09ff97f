//! `check-config` with a real Redis.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::redis_server::Redis;
use crate::{Place, Ran, SECRET};

/// `check-config` with this Redis. The other settings cause no warning.
fn check(url: &str, args: &[&str]) -> Ran {
    let env = [
        ("JWT_SECRET", SECRET),
        ("CLUSTER_SECRET", SECRET),
        ("API_KEYS", SECRET),
        ("AUTH_REQUIRED", "true"),
        ("NODE_ADDRESS", "127.0.0.1:0"),
        ("REDIS_URL", url),
    ];
    Place::new().run_with(&[&["check-config"], args].concat(), &env)
}

const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];
const ROOMY: [&str; 2] = ["--client-output-buffer-limit", "pubsub 256mb 128mb 60"];

#[test]
fn a_redis_that_keeps_everything_is_reported_without_a_warning() {
    let redis = Redis::start(&[&DURABLE[..], &ROOMY].concat());
    let ran = check(&redis.url(), &[]).ok();
    for told in [
        ": appendonly yes, appendfsync always, maxmemory-policy noeviction, clock ",
        "durable publishes are answered with \"stored\": true\n",
        "the prefix slop has no data\n",
    ] {
        assert!(ran.stdout.contains(told), "{told}\n{ran:#?}");
    }
    assert_eq!(ran.stderr, "", "{ran:#?}");
    redis.command(&["ZADD", "{slop}:media", "1", "item"]);
    redis.command(&["HSET", "{slop}:head", "format", "1"]);
    let ran = check(&redis.url(), &[]).ok();
    assert!(ran.stdout.contains("the prefix slop has data of format 1, 1 media items, 0 running nodes\n"), "{ran:#?}");
    // It has changed nothing: not even the number of a term.
    redis.command(&["DEL", "{slop}:media", "{slop}:head"]);
    assert!(check(&redis.url(), &["--redis-prefix", "other"]).ok().stdout.contains("the prefix other has no data\n"));
}

#[test]
fn a_redis_that_may_lose_something_is_warned_of() {
    let redis = Redis::start(&[]);
    let ran = check(&redis.url(), &[]).ok();
    assert!(ran.stdout.contains("durable publishes are answered with \"stored\": false\n"), "{ran:#?}");
    let lines: Vec<&str> = ran.stderr.lines().collect();
    let [durability, buffer] = lines[..] else { panic!("{ran:#?}") };
    assert!(durability.starts_with("warning: Redis: appendonly no, so no publish "), "{durability}");
    assert!(durability.ends_with("set appendonly yes and appendfsync always, or REDIS_DURABILITY"), "{durability}");
    assert!(buffer.contains("32 MiB") && buffer.contains("\"pubsub 256mb 128mb 60\""), "{buffer}");
    let declared = check(&redis.url(), &["--redis-durability", "none"]).ok();
    assert_eq!(declared.stderr.lines().count(), 1, "{declared:#?}");
    let alone = check(&redis.url(), &["--redis-durability", "none", "--redis-wait", "2"]).ok();
    let told = "warning: Redis: 0 replicas are connected and REDIS_WAIT is 2, so publishes are answered with 503\n";
    assert!(alone.stderr.contains(told), "{alone:#?}");
}

#[test]
fn a_redis_that_no_node_can_use_is_an_error_of_one_line() {
    let redis = Redis::start(&["--maxmemory-policy", "allkeys-lru"]);
    let evicting = check(&redis.url(), &[]).failed();
    let told = "error: check the Redis of REDIS_URL: Redis: its maxmemory-policy is allkeys-lru, which removes keys: set noeviction\n";
    assert_eq!(evicting.stderr, told);
    redis.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    redis.command(&["HSET", "{slop}:head", "format", "2"]);
    let newer = check(&redis.url(), &[]).failed();
    assert!(newer.stderr.contains("has format 2, and this version knows 1: update this node\n"), "{newer:#?}");
    assert_eq!(newer.stderr.lines().count(), 1, "{newer:#?}");
    let env = [("JWT_SECRET", SECRET), ("CLUSTER_SECRET", SECRET), ("REDIS_URL", &redis.url())];
    let serve = Place::new().run_with(&["serve", "--host", "127.0.0.1", "--port", "0"], &env).failed();
    assert!(serve.stderr.ends_with("has format 2, and this version knows 1: update this node\n"), "{serve:#?}");
    redis.command(&["DEL", "{slop}:head"]);
    redis.command(&["HSET", "{slop}:migration", "state", "under way"]);
    let halfway = check(&redis.url(), &[]).failed();
    let told = "the migration to its prefix is not complete: run `slop-studios migrate` again\n";
    assert!(halfway.stderr.ends_with(told), "{halfway:#?}");
    redis.command(&["DEL", "{slop}:migration"]);
    redis.command(&["SET", "{slop}:head", "foreign"]);
    let foreign = check(&redis.url(), &[]).failed();
    assert!(foreign.stderr.contains("WRONGTYPE"), "{foreign:#?}");
}

#[test]
fn a_redis_that_does_not_answer_is_an_error_without_the_password() {
    // Nothing listens there.
    let gone = check("redis://operator:hidden@127.0.0.1:1", &[]).failed();
    assert_eq!(gone.stderr, "error: check the Redis of REDIS_URL: Redis: Connection refused (os error 111)\n");
    // The system accepts connections, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("an address");
    let begun = Instant::now();
    let ran = check(&format!("redis://operator:hidden@{address}"), &[]).failed();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let redis = Redis::start(&["--requirepass", "right"]);
    let wrong = check(&format!("{}?pass=hidden", redis.url()), &[]).failed();
    for ran in [&gone, &ran, &wrong] {
        let (shown, told) = (&ran.stdout, &ran.stderr);
        assert!(!shown.contains("hidden") && !told.contains("hidden"), "{ran:#?}");
        assert!(
            told.starts_with("error: check the Redis of REDIS_URL: Redis: ") && told.lines().count() == 1,
            "{ran:#?}"
        );
    }
    let offline = check("redis://operator:hidden@127.0.0.1:1", &["--offline"]).ok();
    assert!(!offline.stdout.contains("hidden"), "{offline:#?}");
}
