//! `sluice check` on mistakes in the file itself: each is shown at its line, with what is allowed and what to do.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

#[path = "check_support/mod.rs"]
mod support;

use support::{Folder, GOOD, good_with};

/// One test: the configuration is refused, and what is shown is as recorded in `tests/snapshots`.
macro_rules! refused {
    ($($name:ident: $config:expr;)*) => {
        $(
            #[test]
            fn $name() {
                let outcome = Folder::new().check(&$config);
                insta::assert_snapshot!(stringify!($name), outcome.stderr);
                assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""));
            }
        )*
    };
}

/// One test: the configuration is taken with a warning, which is as recorded.
macro_rules! warned {
    ($($name:ident: $config:expr;)*) => {
        $(
            #[test]
            fn $name() {
                let outcome = Folder::new().check(&$config);
                insta::assert_snapshot!(stringify!($name), outcome.stderr);
                assert_eq!(outcome.code, Some(0));
                assert!(outcome.stdout.contains("good") && outcome.stdout.contains("1 warning"), "{}", outcome.stdout);
            }
        )*
    };
}

refused! {
    syntax_errors_are_all_shown: "[[listener]\nname = \n[workers]\ncount = 1\ncount = 2\n";
    empty_file_lacks_listener_and_backend: "";
    unknown_section_is_refused_with_the_near_name: good_with("[[backend]]", "[[backends]]");
    unknown_key_is_refused_with_the_near_name: good_with("address =", "adress =");
    unknown_key_without_a_near_name_lists_the_known: good_with("[listener.tls]", "[listener.tls]\npsk = {}");
    table_that_is_a_value_is_refused: good_with("[[listener]]", "workers = 3\n[[listener]]");
    array_of_tables_that_is_a_table_is_refused: good_with("[[backend]]", "[backend]");
    array_that_is_a_string_is_refused: good_with("[\"127.0.0.1:8080\"]", "\"127.0.0.1:8080\"");
    keys_that_must_be_there_are_named: "[[listener]]\n[[backend]]\n[[listener]]\ntls = { certificates = [{}] }\n";
    number_beyond_64_bits_is_refused: good_with("[[listener]]", "workers.connections_max = 99999999999999999999\n[[listener]]");

    duration_without_unit_is_refused: good_with("[listener.tls]", "idle_timeout = 10\n[listener.tls]");
    duration_that_is_none_is_refused: good_with("[listener.tls]", "idle_timeout = \"soon\"\n[listener.tls]");
    durations_out_of_bounds_are_refused: format!("server.drain_timeout = \"2days\"\ntickets.lifetime = \"8days\"\n{}",
        good_with("[listener.tls]", "handshake_timeout = \"1ms\"\nidle_timeout = \"1year\"\nclose_timeout = \"0s\"\n[listener.tls]"))
        + "connect_timeout = \"5m\"\n";
    size_without_unit_is_refused: good_with("[listener.tls]", "kernel_tls_after = 1048576\n[listener.tls]");
    sizes_out_of_bounds_are_refused: format!("workers.buffer_memory = \"1KiB\"\n{}",
        good_with("[listener.tls]", "kernel_tls_after = \"2GiB\"\n[listener.tls]"));
    numbers_out_of_bounds_are_refused: format!("workers.connections_max = 0\ntickets.count = 9\n{GOOD}");
    client_limits_out_of_bounds_are_refused: good_with("[listener.tls]", "client_limits = { connections_max = 0, connection_rate = 0, ipv4_prefix = 33, ipv6_prefix = 129 }\n[listener.tls]");
    network_that_is_none_is_refused: good_with("[listener.tls]", "client_limits = { connections_max = 9, exempt = [\"intranet\", \"10.0.0.1/8\", 10, \"192.0.2.1\"] }\n[listener.tls]");
    negative_number_is_refused: format!("workers.connections_max = -1\n{GOOD}");
    choice_is_refused_with_the_near_name: good_with("[listener.tls]", "kernel_tls = \"requierd\"\n[listener.tls]\npolicy = \"old\"");
    io_driver_that_does_not_exist_is_refused: format!("workers.io = \"kqueue\"\n{GOOD}");
    proxy_protocol_that_does_not_exist_is_refused: format!("{GOOD}proxy_protocol = \"v3\"\nproxy_protocol_tlvs = [\"sni\"]\n");
    proxy_protocol_from_nobody_is_refused: good_with("[listener.tls]", "proxy_protocol_from = []\n[listener.tls]");
    worker_count_of_the_wrong_kind_is_refused: format!("workers.count = \"many\"\n{GOOD}");
    cpu_list_that_cannot_be_read_is_refused: format!("workers.cpus = \"3-1\"\n{GOOD}");

    name_that_is_not_usable_is_refused: good_with("name = \"edge\"", "name = \"edge one\"");
    listeners_of_the_same_name_are_refused: good_with("[[backend]]", "[[listener]]\nname = \"edge\"\naddress = \"127.0.0.1:1\"\nbackend = \"app\"\ntls.certificates = [{ chain = \"edge.crt\", key = \"edge.key\" }]\n[[backend]]");
    listeners_of_the_same_address_are_refused: good_with("[[backend]]", "[[listener]]\nname = \"all\"\naddress = \"0.0.0.0:8443\"\nbackend = \"app\"\ntls.certificates = [{ chain = \"edge.crt\", key = \"edge.key\" }]\n[[backend]]");
    address_without_port_is_refused: good_with("127.0.0.1:8443", "127.0.0.1");
    address_without_ip_is_refused: good_with("127.0.0.1:8443", ":8443");
    address_of_a_name_is_refused: good_with("127.0.0.1:8443", "edge.test:8443");
    address_with_port_zero_is_refused: good_with("127.0.0.1:8443", "127.0.0.1:0");
    admin_address_that_is_not_loopback_is_refused: format!("admin.address = \"0.0.0.0:9180\"\n{GOOD}");
    admin_socket_in_a_missing_folder_is_refused: format!("admin.address = \"unix:nowhere/admin.sock\"\n{GOOD}");
    admin_socket_with_a_long_path_is_refused: format!("admin.address = \"unix:/tmp/{}\"\n{GOOD}", "x".repeat(95));
    admin_tls_with_bad_files_is_refused: format!(
        "admin.address = \"0.0.0.0:9180\"\nadmin.tls = {{ chain = \"edge.crt\", key = \"edge.key\", client_ca = \"edge.key\" }}\n{GOOD}");
    process_log_that_cannot_be_is_refused: format!(
        "log = {{ level = \"sluice=loud\", format = \"xml\", output = \"off\" }}\n{GOOD}");
    log_outputs_that_do_not_exist_are_refused: format!(
        "access_log = {{ output = \"/var/log/access.log\", sample = 0 }}\naudit_log = {{ output = \"syslog+tcp:collector:601\", file = \"nowhere/audit.log\" }}\n{GOOD}");
    log_output_by_syslog_with_bad_files_is_refused: format!(
        "access_log.output = \"syslog+tls:127.0.0.1:6514\"\nsyslog = {{ ca = \"edge.key\", chain = \"edge.crt\" }}\n{GOOD}");
    admin_address_of_a_listener_is_refused: format!("admin.address = \"127.0.0.1:8443\"\n{GOOD}");
    ring_in_a_missing_folder_is_refused: format!("tickets.ring = \"nowhere/ticket.ring\"\n{GOOD}");
    ring_that_does_not_exist_is_refused: format!("tickets.ring = \"ticket.ring\"\n{GOOD}");
    ring_that_others_can_read_is_refused: format!("tickets.ring = \"edge.crt\"\n{GOOD}");
    ring_that_is_something_else_is_refused: format!("tickets.ring = \"edge.key\"\n{GOOD}");
    ticket_keys_that_cannot_be_used_are_refused: format!("tickets.keys = [\"edge.key\", \"none.key\", 3]\n{GOOD}");
    ring_that_is_a_folder_is_refused: format!("tickets.ring = \"/proc\"\n{GOOD}");
    alpn_names_that_cannot_be_sent_are_refused: good_with("[listener.tls]",
        &format!("[listener.tls]\nalpn = [\"h2\", \"\", \"{}\", \"h2\", 3]", "x".repeat(256)));

    backend_that_does_not_exist_is_refused_with_the_near_name: good_with("backend = \"app\"", "backend = \"ap\"");
    backend_that_does_not_exist_is_refused_with_the_known: good_with("backend = \"app\"", "backend = \"elsewhere\"");
    backend_without_servers_is_refused: good_with("[\"127.0.0.1:8080\"]", "[]");
    backends_of_the_same_name_are_refused: format!("{GOOD}[[backend]]\nname = \"app\"\nservers = [\"[::1]:1\"]\n");
    servers_that_cannot_be_reached_are_refused: good_with("[\"127.0.0.1:8080\"]",
        &format!("[\"0.0.0.0:80\", \"127.0.0.1:0\", \"/run/app.sock\", \"unix:\", \"localhost:80\", \"unix:/{}\"]", "x".repeat(120)));
    certificates_of_none_are_refused: good_with("[{ chain = \"edge.crt\", key = \"edge.key\" }]", "[]");
    certificate_of_two_forms_is_refused: good_with("key = \"edge.key\"", "pkcs12 = \"edge.p12\"");
    versions_that_leave_none_are_refused: good_with("[listener.tls]", "[listener.tls]\nmin_version = \"1.3\"\nmax_version = \"1.2\"");
    version_that_is_forbidden_is_refused: good_with("[listener.tls]", "[listener.tls]\nmin_version = \"1.1\"");
    suites_that_are_not_served_are_refused_with_the_reason: good_with("[listener.tls]", "[listener.tls]\nsuites = [\"TLS_RSA_WITH_AES_128_CBC_SHA\", \"AES128-GCM-SHA256\", \"TLS_AES_128_CCM_SHA256\", \"TLS_AES_128_GCM_SHA265\", \"HIGH:!aNULL\"]");
    suites_without_one_for_a_version_are_refused: good_with("[listener.tls]", "[listener.tls]\nsuites = [\"TLS_AES_128_GCM_SHA256\"]");
    groups_for_one_version_only_are_refused: good_with("[listener.tls]", "[listener.tls]\ngroups = [\"X25519MLKEM768\"]");
    group_that_does_not_exist_is_refused: good_with("[listener.tls]", "[listener.tls]\ngroups = [\"P256\"]");
    signature_algorithms_without_one_for_the_key_are_refused: good_with("[listener.tls]", "[listener.tls]\nsignature_algorithms = [\"rsa_pss_rsae_sha256\"]");
    signature_algorithm_of_sha1_is_refused: good_with("[listener.tls]", "[listener.tls]\nsignature_algorithms = [\"rsa_pkcs1_sha1\"]");
    server_names_that_are_none_are_refused: section("names = [\"a..b\", \"192.0.2.1\", \"b\u{fc}cher.example\", \"*\"]");
    server_name_in_two_sections_is_refused: section("names = [\"edge.test\", \"EDGE.test.\"]");
    server_names_of_none_are_refused: section("names = []\nbackend = \"ap\"");
    server_name_section_without_names_is_refused: section("backend = \"app\"");
}

warned! {
    proxy_protocol_tlvs_without_version_2_are_warned_of: format!("{GOOD}proxy_protocol = \"v1\"\nproxy_protocol_tlvs = [\"alpn\"]\n");
    suite_that_is_named_twice_is_warned_of: good_with("[listener.tls]", "[listener.tls]\nmin_version = \"1.3\"\nsuites = [\"TLS_AES_128_GCM_SHA256\", \"TLS_AES_128_GCM_SHA256\"]");
    server_name_without_a_certificate_is_warned_of: section("names = [\"other.test\"]");
    client_limits_that_limit_nothing_are_warned_of: good_with("[listener.tls]", "client_limits = { ipv6_prefix = 56 }\n[listener.tls]");
    burst_without_a_rate_is_warned_of: good_with("[listener.tls]", "client_limits = { connections_max = 9, connection_burst = 9 }\n[listener.tls]");
    backend_that_nobody_uses_is_warned_of: format!("{GOOD}[[backend]]\nname = \"spare\"\nservers = [\"[::1]:1\"]\n");
    kernel_tls_after_without_effect_is_warned_of: good_with("[listener.tls]", "kernel_tls = \"off\"\nkernel_tls_after = \"1MiB\"\n[listener.tls]");
}

#[test]
fn good_file_is_summed_up_in_one_line() {
    let outcome = Folder::new().check(&format!("workers.count = 1\n{GOOD}"));
    assert_eq!(outcome.stdout, "sluice.toml: good: 1 listener, 1 backend, 1 worker, 0 warnings\n");
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
}

#[test]
fn cpu_and_count_that_the_machine_does_not_have_are_refused() {
    let outcome = Folder::new().check(&format!("workers.cpus = \"8191\"\n{GOOD}"));
    assert!(outcome.stderr.contains("sluice.toml:1:16"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("names a CPU that does not exist"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("CPU 8191") && outcome.stderr.contains("allowed: 0"), "{}", outcome.stderr);
    let outcome = Folder::new().check(&format!("workers.count = 100000\n{GOOD}"));
    assert!(outcome.stderr.contains("larger than the number of CPUs"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("found 100000") && outcome.stderr.contains("allowed: 1 to "), "{}", outcome.stderr);
}

#[test]
fn listeners_on_both_families_of_one_port_are_taken() {
    let config = good_with("127.0.0.1:8443", "0.0.0.0:8443");
    let second = "[[listener]]\nname = \"six\"\naddress = \"[::]:8443\"\nbackend = \"app\"\n\
                  tls.certificates = [{ chain = \"edge.crt\", key = \"edge.key\" }]\n";
    assert_eq!(Folder::new().check(&format!("{config}{second}")).code, Some(0));
}

#[test]
fn file_that_cannot_be_read_is_named() {
    let folder = Folder::new();
    let missing = folder.check_file("missing.toml");
    insta::assert_snapshot!("file_that_is_missing", missing.stderr);
    assert_eq!(missing.code, Some(1));
    let directory = folder.check_file(".");
    insta::assert_snapshot!("file_that_is_a_directory", directory.stderr);
    folder.write("binary.toml", b"[workers]\ncount = \xff\n");
    insta::assert_snapshot!("file_that_is_not_utf8", folder.check_file("binary.toml").stderr);
    folder.write("huge.toml", &vec![b'#'; 5 << 20]);
    insta::assert_snapshot!("file_that_is_too_large", folder.check_file("huge.toml").stderr);
}

#[test]
fn findings_beyond_the_bound_are_counted() {
    let outcome = Folder::new().check(&(0..200).map(|number| format!("key{number} = 1\n")).collect::<String>());
    assert_eq!(outcome.stderr.matches("error: ").count(), 50);
    assert!(outcome.stderr.contains("... and 152 more"), "{}", outcome.stderr);
}

#[test]
fn output_that_is_not_a_terminal_has_no_escapes() {
    let paths = good_with("\"edge.crt\"", "\"\\u001b[31m\\n\\u202e.crt\"");
    for config in ["\"\u{1b}[31mred\" = 1\nx = \"\u{202e}\"\n", "\"\\u001b[31mred\" = 1\n", &paths] {
        let outcome = Folder::new().check(config);
        assert!(!outcome.stderr.contains(['\u{1b}', '\u{202e}']), "{:?}", outcome.stderr);
        assert_eq!(outcome.code, Some(1));
    }
}

#[test]
fn wrong_command_line_exits_with_2() {
    let mut command = assert_cmd::Command::cargo_bin("sluice").unwrap();
    command.args(["check", "--schema", "--config", "x"]).assert().code(2);
    let mut command = assert_cmd::Command::cargo_bin("sluice").unwrap();
    command.arg("serve").assert().code(2);
}

/// The good configuration with a section of server names.
fn section(lines: &str) -> String {
    good_with("[[backend]]", &format!("[[listener.server_name]]\n{lines}\n\n[[backend]]"))
}
