//! `explain`: which rule of the room policy answers a client, and why.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use tokio::runtime::Builder;

use super::dev_files::DevFile;
use super::terminal::printable;
use crate::commands::failure::Failure;
use crate::config::{Effective, Profile, SettingFlags, Settings};
use crate::contract::auth_error::AuthError;
use crate::contract::namespaces::{DEFAULT, MEDIA, NOTIFICATIONS};
use crate::contract::rooms::{self, Target, check_name, check_room};
use crate::identity::{Flaw, Identity, TokenVerifier};
use crate::policy::{Decision, Policy};

/// What is asked.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    question: Question,
    /// The client's token; without one, it is anonymous
    #[arg(long, value_name = "TOKEN")]
    token: Option<SecretString>,
    /// Namespace of the room
    #[arg(long, default_value = DEFAULT, conflicts_with = "subscribe", value_parser = [DEFAULT, MEDIA, NOTIFICATIONS])]
    namespace: String,
    /// User who owns the media item; without one, it has no owner yet
    #[arg(long, value_name = "USER", conflicts_with = "join")]
    owner: Option<String>,
    /// Answer as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: SettingFlags,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Question {
    /// Whether the client may join this room
    #[arg(long, value_name = "ROOM")]
    join: Option<String>,
    /// Whether the client may subscribe to this media item
    #[arg(long, value_name = "ITEM")]
    subscribe: Option<String>,
}

/// The answer. As text, each part is on a line of its own.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    allowed: bool,
    action: &'static str,
    name: String,
    namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// None for an anonymous client.
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
    /// The reason why the token is invalid, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_error: Option<String>,
    rule: String,
    why: Vec<String>,
}

/// Runs the command. The exit code has the answer, as with `kubectl auth can-i`, so that a script need not read the
/// text.
pub(crate) fn run(args: &ExplainArgs) -> Result<ExitCode, Failure> {
    let mut effective = Effective::load(&args.flags, Profile::Serve);
    if effective.lacks_token_keys() {
        // As `token` does: most users without token keys have `dev` running.
        let data_dir = effective.data_dir()?;
        if let Some(secret) = DevFile::JwtSecret.read(&data_dir)? {
            effective.set_from_dev_file("JWT_SECRET", &secret);
        }
    }
    let answer = answer(args, &effective.settings()?)?;
    let text = if args.json {
        serde_json::to_string(&answer).context("write the answer as JSON")? + "\n"
    } else {
        answer.text()
    };
    std::io::stdout().write_all(text.as_bytes()).context("write the answer")?;
    Ok(if answer.allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn answer(args: &ExplainArgs, settings: &Settings) -> Result<Answer, Failure> {
    let policy = settings.policy();
    let verified = args.token.as_ref().map(|token| verify(settings, &policy, token.expose_secret())).transpose()?;
    let (identity, token_error) = match verified.transpose() {
        Ok(identity) => (identity, None),
        Err(flaw) => (None, Some(format!("{}: {flaw}", flaw.error()))),
    };
    let (action, name, namespace, checked) = match (&args.question.join, &args.question.subscribe) {
        (Some(room), _) => ("join", room, args.namespace.as_str(), check_room(room)),
        (None, Some(item)) => ("subscribe", item, MEDIA, check_name(item)),
        (None, None) => return Err(Failure::Usage("--join or --subscribe is needed".to_owned())),
    };
    checked.map_err(|error| Failure::Usage(format!("--{action} {error}")))?;
    let (allowed, rule, why) = match action {
        "join" => join(&policy, identity.as_ref(), namespace, name),
        _ => describe(policy.subscribe(identity.as_ref(), name, args.owner.as_deref()), identity.as_ref(), name),
    };
    Ok(Answer {
        allowed,
        action,
        name: name.clone(),
        namespace: namespace.to_owned(),
        owner: args.owner.clone(),
        user_id: identity.map(|identity| identity.user_id),
        token_error,
        rule,
        why,
    })
}

/// The identity in the token, or the token's flaw, as a newly started server would report it. Only the running server
/// knows the revocations.
fn verify(settings: &Settings, policy: &Policy, token: &str) -> anyhow::Result<Result<Identity, Flaw>> {
    let mut verifier = TokenVerifier::new(settings.token_keys()?, settings.claim_rules());
    let mut verified = verifier.examine(token);
    // The issuer's keys are fetched only if they are needed.
    if verified.as_ref().is_err_and(|flaw| flaw.error() == AuthError::Invalid)
        && let Some(jwks) = settings.jwks(&Arc::default())?
    {
        let runtime = Builder::new_current_thread().enable_all().build().context("start the runtime")?;
        runtime.block_on(jwks.fetch()).context("fetch the keys of JWKS_URL")?;
        verifier = verifier.with_jwks(jwks);
        verified = verifier.examine(token);
    }
    Ok(verified.map(|identity| Identity { claims: policy.claims().of_verified_token(token), ..identity }))
}

fn join(policy: &Policy, identity: Option<&Identity>, namespace: &str, room: &str) -> (bool, String, Vec<String>) {
    let reserved = |allowed, why: &str| (allowed, "reserved".to_owned(), vec![why.to_owned()]);
    match rooms::target(room, "", identity.map(|identity| identity.user_id.as_str())) {
        Target::Own => reserved(true, "it is the user's own room"),
        Target::Another => reserved(false, "a room that begins with user: is that user's alone"),
        Target::Custom => describe(policy.join(identity, namespace, room), identity, room),
    }
}

fn describe(decision: Decision<'_>, identity: Option<&Identity>, name: &str) -> (bool, String, Vec<String>) {
    (decision.allowed, decision.ground.to_string(), decision.ground.reasons(identity, name))
}

impl Answer {
    fn text(&self) -> String {
        let verdict = if self.allowed { "allowed" } else { "denied" };
        let who = self.user_id.as_deref().map_or("without an identity".to_owned(), |user| format!("as {user}"));
        let owner = self.owner.as_ref().map(|owner| format!(" of {owner}")).unwrap_or_default();
        let mut lines = vec![format!("{verdict}: {} {}{owner} on {} {who}", self.action, self.name, self.namespace)];
        lines.extend(self.token_error.as_ref().map(|error| format!("token: {error}")));
        lines.push(format!("rule: {}", self.rule));
        lines.push(format!("why: {}", self.why.join("; ")));
        lines.iter().map(|line| printable(line) + "\n").collect()
    }
}
