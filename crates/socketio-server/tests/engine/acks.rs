//! Acknowledgements: those that the server asks clients for, and when its own are sent.

use std::time::Duration;

use socketio_server::{AckReply, Config, Namespace, Socket};

use crate::{
    client::{Client, Via, Ws},
    harness::{Recorder, TWO, TestServer, Unspeakable, recorder},
};

on_one_and_three_shards!(a_client_acknowledges_events, acks_that_never_come_end);

/// `ask` has the handler ask the client, and note what it says.
fn asking(name: &'static str, recorder: &Recorder) -> Namespace {
    let recorder = recorder.clone();
    Namespace::new(name).on_async("ask", move |socket, event| {
        let recorder = recorder.clone();
        async move {
            let timeout = Duration::from_millis(event.parse(0).expect("milliseconds"));
            let count: usize = event.parse(1).unwrap_or(1);
            let asked: Vec<_> = (0..count).map(|_| answer(&socket, timeout, &recorder)).collect();
            futures_in_turn(asked).await;
        }
    })
}

async fn answer(socket: &Socket, timeout: Duration, recorder: &Recorder) {
    recorder.note(match socket.emit_with_ack("question", &"?", timeout).await {
        Ok(reply) => described(&reply),
        Err(error) => error.to_string(),
    });
}

fn described(reply: &AckReply) -> String {
    let args: Vec<&str> = reply.args().iter().map(|arg| arg.get()).collect();
    format!("[{}] {:?}", args.join(","), reply.attachments().iter().map(|data| data.to_vec()).collect::<Vec<_>>())
}

/// Runs futures side by side.
async fn futures_in_turn<F: Future<Output = ()>>(futures: Vec<F>) {
    let mut futures: Vec<_> = futures.into_iter().map(|future| Some(Box::pin(future))).collect();
    std::future::poll_fn(|cx| {
        for slot in &mut futures {
            if slot.as_mut().is_some_and(|future| future.as_mut().poll(cx).is_ready()) {
                *slot = None;
            }
        }
        if futures.iter().all(Option::is_none) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

async fn a_client_acknowledges_events(shards: usize) {
    let (recorder, mut seen) = recorder();
    let server = TestServer::start(Config { shards, ..Config::default() }, |server| {
        server.namespace(asking("/", &recorder)).namespace(asking("/b", &recorder))
    });
    for via in Via::BOTH {
        let mut client = Client::connected(server.addr, via).await;
        client.send(r#"42["ask",10000]"#).await;
        assert_eq!(client.text().await, r#"420["question","?"]"#);
        client.send(r#"430["yes",{"a":[1]}]"#).await;
        assert_eq!(seen.next().await, r#"["yes",{"a":[1]}] []"#);

        // What is no answer to it does not count, even from another namespace; and the first that is does.
        client.send("40/b,").await;
        client.text().await;
        client.send(r#"42["ask",10000]"#).await;
        assert_eq!(client.text().await, r#"421["question","?"]"#);
        client.send(r#"430["late"]"#).await;
        client.send(r#"432["early"]"#).await;
        client.send(r#"43/b,1["elsewhere"]"#).await;
        client.send(r#"439007199254740991["far"]"#).await;
        client.send("431[]").await;
        client.send(r#"431["twice"]"#).await;
        assert_eq!(seen.next().await, "[] []");

        client.send(r#"42/b,["ask",10000]"#).await;
        assert_eq!(client.text().await, r#"42/b,0["question","?"]"#);
        client.send(&format!("462-/b,0[{TWO}]")).await;
        client.send_binary(&[1, 2, 3]).await;
        client.send_binary(&[4]).await;
        assert_eq!(seen.next().await, format!("[{TWO}] [[1, 2, 3], [4]]"));

        // Several at once, answered in another order.
        client.send(r#"42["ask",10000,3]"#).await;
        for id in 2..5 {
            assert_eq!(client.text().await, format!(r#"42{id}["question","?"]"#));
        }
        for id in [3, 4, 2] {
            client.send(&format!("43{id}[{id}]")).await;
            assert_eq!(seen.next().await, format!("[{id}] []"));
        }
    }
    assert_eq!(seen.so_far(), [""; 0]);
}

async fn acks_that_never_come_end(shards: usize) {
    let (recorder, mut seen) = recorder();
    let config = Config { shards, max_pending_acks: 2, ..Config::default() };
    let server = TestServer::start(config, |server| {
        server.namespace(asking("/", &recorder).on("bye", |socket, _| socket.disconnect()))
    });
    let (mut ws, _) = Ws::connected(server.addr).await;
    ws.send(r#"42["ask",50]"#).await;
    assert_eq!(ws.text().await, r#"420["question","?"]"#);
    assert_eq!(seen.next().await, "acknowledgement timed out");

    // What timed out is not owed any more.
    ws.send(r#"42["ask",50,3]"#).await;
    assert_eq!(seen.next().await, "too many pending acknowledgements");
    assert_eq!(ws.text().await, r#"421["question","?"]"#);
    assert_eq!(ws.text().await, r#"422["question","?"]"#);
    ws.send("431[]").await;
    assert_eq!(seen.next().await, "[] []");
    assert_eq!(seen.next().await, "acknowledgement timed out");
    ws.send(r#"430["late"]"#).await;

    // The connection goes, and then the namespace only.
    ws.send(r#"42["ask",60000]"#).await;
    assert_eq!(ws.text().await, r#"423["question","?"]"#);
    drop(ws);
    assert_eq!(seen.next().await, "socket is disconnected");
    let (mut ws, _) = Ws::connected(server.addr).await;
    ws.send(r#"42["ask",60000]"#).await;
    assert_eq!(ws.text().await, r#"420["question","?"]"#);
    ws.send("41").await;
    assert_eq!(seen.next().await, "socket is disconnected");
    ws.enter("/").await;
}

#[tokio::test]
async fn an_ack_may_be_sent_later_once_and_only_if_asked_for() {
    let server = TestServer::start(Config { shards: 1, ..Config::default() }, |server| {
        server.namespace(
            Namespace::new("/")
                .on("now", |_, event| event.ack(&"now"))
                .on("nothing", |_, event| event.ack(&Unspeakable))
                .on_async("later", |socket, mut event| async move {
                    let ack = event.take_ack();
                    assert!(!event.wants_ack());
                    socket.emit("before", &()).expect("a name");
                    tokio::task::yield_now().await;
                    if let Some(ack) = ack {
                        ack.send(&"later");
                    }
                    event.ack(&"again");
                })
                .on("after leaving", |socket, event| {
                    socket.disconnect();
                    event.ack(&"too late");
                }),
        )
    });
    for via in Via::BOTH {
        let mut client = Client::connected(server.addr, via).await;
        for (event, answers) in [
            (r#"421["now"]"#, &[r#"431["now"]"#][..]),
            (r#"42["now"]"#, &[]),
            (r#"422["nothing"]"#, &["432[null]"]),
            (r#"423["later"]"#, &[r#"42["before",null]"#, r#"433["later"]"#]),
            (r#"42["later"]"#, &[r#"42["before",null]"#]),
            (r#"424["after leaving"]"#, &["41"]),
        ] {
            client.send(event).await;
            for answer in answers {
                assert_eq!(client.text().await, *answer, "{event}");
            }
        }
        client.send("40").await;
        assert!(client.text().await.starts_with("40"), "nothing came after the disconnect");
    }
}
