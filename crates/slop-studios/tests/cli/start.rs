//! What a server that can't start says.

use std::net::TcpListener;

use crate::{Place, SECRET};

#[test]
fn an_address_that_cannot_be_had_names_its_setting() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("an address").port().to_string();
    for command in ["serve", "dev"] {
        let run = |args: &[&str]| place.run_with(&[&[command], args].concat(), &[("JWT_SECRET", SECRET)]).failed();
        let ran = run(&["--host", "127.0.0.1", "--port", &port]);
        let told = format!("error: port {port} of 127.0.0.1 is in use: end what listens there, or set PORT (--port)");
        assert!(ran.stderr.contains(&told), "{told}\n{ran:#?}");
        // RFC 5737: an address for documentation, which no machine has.
        let ran = run(&["--host", "192.0.2.1", "--port", "0"]);
        assert!(ran.stderr.contains("error: HOST is 192.0.2.1, which is no address of this machine"), "{ran:#?}");
    }
}

#[test]
fn a_data_folder_that_is_a_file_names_its_setting() {
    let place = Place::new();
    place.write("file", "");
    let secret = [("JWT_SECRET", SECRET)];
    for (folder, told) in [("file", "it is a file"), ("file/data", "file is a file"), ("./file", "it is a file")] {
        for command in [
            &["serve", "--port", "0", "--host", "127.0.0.1"][..],
            &["dev", "--port", "0"],
            &["check-config"],
            &["publish", "error", "m", "x"],
        ] {
            let ran = place.run_with(&[command, &["--data-dir", folder]].concat(), &secret).failed();
            let told = format!("error: DATA_DIR is {folder}, but {told} and no folder");
            assert!(ran.stderr.contains(&told), "{command:?}: {told}\n{ran:#?}");
        }
        let ran = place.run(&["token", "--user", "a", "--data-dir", folder]).failed();
        assert!(ran.stderr.contains("DATA_DIR is"), "{ran:#?}");
    }
}
