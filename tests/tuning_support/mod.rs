//! A stand-in for a machine: /proc and /sys as files, which `--root` takes in place of the real ones.

#![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Eight CPUs, two threads in each core (0 and 4, 1 and 5, ...), two memory nodes (0, 1, 4, 5 and 2, 3, 6, 7), a NIC
/// `eth0` at the second node with as many queues as asked for, all of whose interrupts go to CPU 0.
pub(crate) struct Machine {
    folder: TempDir,
}

/// The first interrupt of the NIC; queue N has this one plus N.
const INTERRUPT: usize = 40;

impl Machine {
    pub(crate) fn with_queues(count: usize) -> Self {
        let machine = Self { folder: TempDir::new().unwrap() };
        let cpu = "sys/devices/system/cpu";
        machine.write(&format!("{cpu}/present"), "0-7");
        machine.write(&format!("{cpu}/online"), "0-7");
        for number in 0..8 {
            let core = format!("{},{}", number % 4, number % 4 + 4);
            machine.write(&format!("{cpu}/cpu{number}/topology/core_cpus_list"), &core);
        }
        machine.write("sys/devices/system/node/node0/cpulist", "0-1,4-5");
        machine.write("sys/devices/system/node/node1/cpulist", "2-3,6-7");
        machine.write("proc/net/route", "Iface\tDestination\tGateway\neth0\t00000000\t0102A8C0");
        machine.write("sys/class/net/eth0/device/numa_node", "1");
        for (name, value) in [
            ("net/core/somaxconn", "128"),
            ("net/ipv4/tcp_syncookies", "1"),
            ("net/ipv4/ip_local_port_range", "32768\t60999"),
            ("net/ipv4/tcp_wmem", "4096\t16384\t4194304"),
            ("net/ipv4/tcp_migrate_req", "0"),
        ] {
            machine.write(&format!("proc/sys/{name}"), value);
        }
        machine.set_queues(count);
        machine
    }

    /// What a driver does when the number of its queues changes: it makes them anew.
    pub(crate) fn set_queues(&self, count: usize) {
        let queues = self.path().join("sys/class/net/eth0/queues");
        let _ = fs::remove_dir_all(&queues);
        let interrupts = self.path().join("sys/class/net/eth0/device/msi_irqs");
        let _ = fs::remove_dir_all(&interrupts);
        for queue in 0..count {
            let number = INTERRUPT + queue;
            self.write(&format!("sys/class/net/eth0/queues/rx-{queue}/rps_cpus"), "00000000");
            self.write(&format!("sys/class/net/eth0/queues/tx-{queue}/xps_cpus"), "000000ff");
            self.write(&format!("sys/class/net/eth0/device/msi_irqs/{number}"), "msix");
            self.write(&format!("sys/kernel/irq/{number}/actions"), &format!("eth0-TxRx-{queue}"));
            self.write(&format!("proc/irq/{number}/smp_affinity_list"), "0");
        }
    }

    /// A stand-in for ethtool that makes the queues anew, or fails.
    pub(crate) fn ethtool(&self, exit: u8) -> PathBuf {
        let path = self.path().join("ethtool");
        let queues = self.path().join("sys/class/net/eth0/queues");
        let (queues, device) = (queues.display(), self.path().join("sys/class/net/eth0/device").display().to_string());
        let (irq, actions) = (self.path().join("proc/irq"), self.path().join("sys/kernel/irq"));
        let script = format!(
            r#"#!/bin/bash
[ {exit} -eq 0 ] && [ "$*" = "-L eth0 combined $4" ] || exit 1
rm -rf '{queues}' '{device}/msi_irqs' '{irq}' '{actions}'
for ((queue = 0; queue < $4; queue++)); do
  irq=$(({INTERRUPT} + queue))
  mkdir -p '{queues}'/{{rx,tx}}-$queue '{device}/msi_irqs' '{irq}'/$irq '{actions}'/$irq
  echo 00000000 >'{queues}'/rx-$queue/rps_cpus
  echo 000000ff >'{queues}'/tx-$queue/xps_cpus
  echo msix >'{device}/msi_irqs'/$irq
  echo eth0-TxRx-$queue >'{actions}'/$irq/actions
  echo 0 >'{irq}'/$irq/smp_affinity_list
done
"#,
            irq = irq.display(),
            actions = actions.display(),
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    /// A file's words, separated by single spaces.
    pub(crate) fn read(&self, path: &str) -> String {
        let text = fs::read_to_string(self.path().join(path)).unwrap();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Every file below /proc and /sys with its words.
    pub(crate) fn state(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.path().join("proc"), self.path().join("sys")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let text = fs::read_to_string(&path).unwrap();
                    found.insert(path, text.split_whitespace().collect::<Vec<_>>().join(" "));
                }
            }
        }
        found
    }
}
