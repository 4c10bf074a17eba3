
"use strict";

// How often /status is asked for, and how many answers the small charts hold.
const POLL_MS = 2000, POINTS = 90;

const REASONS = {
  policy_off: "kernel_tls is off for the listener", no_kernel_tls: "the kernel has no TLS",
  known_bug: "the kernel has a published bug", slow_cipher: "the kernel lacks the CPU's driver for it", suite: "the kernel lacks this version or cipher",
  max_fragment_length: "the client asked for smaller records", too_small: "it never proved bulky",
  not_established: "the connection was already closing", out_of_memory: "the kernel had no memory",
  setsockopt_failed: "the kernel refused",
  plain_http: "plain HTTP on the TLS port", sslv2_hello: "an SSL 2.0 hello", not_tls: "no TLS at all",
  too_long: "more bytes than allowed", alert_received: "the client sent an alert", version: "no version in common",
  nothing_in_common: "no cipher, group or signature in common", alpn: "no ALPN protocol in common",
  protocol: "the client broke the protocol", closed_silently: "closed before the first byte: scans, health checks",
  closed: "closed midway", timed_out: "took too long", gave_way: "had waited longest when there were too many",
  client_closed: "the client was done", backend_closed: "the backend was done",
  client_truncated: "the client left without saying so", client_failed: "the client's socket failed",
  backend_failed: "the backend's socket failed", backend_unavailable: "no server could be reached",
  bad_record: "a forged or damaged record", protocol_violation: "the client broke the protocol",
  memory_short: "was idle while memory was short", client_stalled: "the client had stopped reading",
  backend_stalled: "the backend had stopped reading", proxy_header_refused: "no PROXY header, or nobody's who may send one",
  idle_timeout: "nothing moved", close_timeout: "the client did not close in time", record_limit: "the key was used up",
  rekey_unsupported: "the kernel cannot change keys", handshake_failed: "the handshake failed",
  drained: "the process was going down", internal: "trouble on our side: see the log",
  current: "opened", previous_renewed: "opened and renewed", unknown_key: "a key this node does not have",
  expired: "too old", scope: "issued under another policy", server_name: "issued for another name",
  client_certificate: "the client certificate has expired", corrupted: "damaged or forged",
};
const KINDS = { certificate: "certificate", client_ca: "client authority", crl: "revocation list" };
// Ends that are shown of each listener, and notices about them.
const ENDINGS_SHOWN = 3, NOTICES_MAX = 5;
const DIRECTIONS = { backend_to_client: "to clients", client_to_backend: "to backends" };

const state = { last: null, lastAt: 0, history: {}, paused: false, timer: 0, failures: 0 };
const place = (id) => document.getElementById(id);

function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "class") element.className = value; else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}


// Puts other content in a place. Who is in it with the keyboard, or has scrolled it, stays where he is.
function fill(id, ...children) {
  const target = place(id), name = (element) => element.getAttribute("aria-label");
  const before = new Map([...target.querySelectorAll("[aria-label]")].map((element) => [name(element), element.scrollLeft]));
  const focused = target.contains(document.activeElement) ? name(document.activeElement) : null;
  target.replaceChildren(...children.filter(Boolean));
  for (const element of target.querySelectorAll("[aria-label]")) {
    element.scrollLeft = before.get(name(element)) || 0;
    if (focused !== null && name(element) === focused) element.focus({ preventScroll: true });
  }
}

const sum = (object) => Object.values(object || {}).reduce((total, value) => total + value, 0);
const number = (value) => Math.abs(value) < 10000 ? Math.round(value).toLocaleString("en") : scale(value, 1000, ["", " k", " M", " G", " T"]);
const rate = (value) => value === null ? "–" : value > 0 && value < 10 ? value.toFixed(1) : number(value);
const bytes = (value) => scale(value, 1000, [" B", " kB", " MB", " GB", " TB", " PB"]);
const percent = (ratio) => ratio === null || ratio === undefined ? "–" : (100 * ratio).toFixed(ratio > 0.995 || ratio < 0.1 ? 1 : 0) + " %";

function scale(value, step, units) {
  let at = 0;
  while (Math.abs(value) >= step && at < units.length - 1) { value /= step; at += 1; }
  return value.toFixed(at === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2) + units[at];
}

function span(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, length]) => seconds >= length);
  if (first < 0) return "0 s";
  const parts = [];
  for (const [unit, length] of units.slice(first, first + 2)) {
    const count = Math.floor(seconds / length);
    seconds -= count * length;
    if (count > 0) parts.push(count + " " + unit);
  }
  return parts.join(" ");
}

// A table: columns are [title, is number, class]; rows are arrays of cells, the first one heads its row.
function table(caption, columns, rows) {
  const cell = (content, at) => {
    const [, isNumber, extra] = columns[at];
    const attributes = { class: [isNumber ? "number" : "", extra || ""].join(" ").trim() };
    if (at === 0) attributes.scope = "row";
    return make(at === 0 ? "th" : "td", attributes, content);
  };
  const head = columns.map(([title, isNumber, extra]) =>
    make("th", { scope: "col", class: [isNumber ? "number" : "", extra || ""].join(" ").trim() }, title));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    make("table", {}, make("caption", { class: "hidden" }, caption), make("thead", {}, make("tr", {}, ...head)),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map(cell))))));
}

const named = (title, note) => make("span", {}, title, note ? make("small", {}, note) : null);
const empty = (text) => make("p", { class: "empty" }, text);

function counts(caption, object, nothing, column) {
  const rows = Object.entries(object).filter(([, value]) => value > 0).sort((a, b) => b[1] - a[1]);
  if (rows.length === 0) return empty(nothing);
  return table(caption, [[column || "Reason"], ["Count", true]],
    rows.map(([name, value]) => [named(make("code", {}, name), REASONS[name]), number(value)]));
}

function bar(parts) {
  const total = parts.reduce((all, part) => all + part, 0);
  const element = make("span", { class: "bar", "aria-hidden": "true" });
  for (const part of parts) {
    const piece = make("i");
    piece.style.width = (total > 0 ? 100 * part / total : 0) + "%";
    element.append(piece);
  }
  return element;
}

function spark(name, values) {
  const space = "http://www.w3.org/2000/svg", drawing = document.createElementNS(space, "svg");
  drawing.setAttribute("class", "spark");
  drawing.setAttribute("viewBox", "0 0 100 30");
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("role", "img");
  drawing.setAttribute("aria-label", name + " over the last " + span(Math.max(1, values.length - 1) * POLL_MS / 1000));
  const top = Math.max(...values, 1e-9), step = 100 / Math.max(values.length - 1, 1);
  const points = (values.length < 2 ? [0, ...values, ...values] : values).slice(values.length < 2 ? 1 : 0);
  const line = points.map((value, at) => (at ? "L" : "M") + (at * (values.length < 2 ? 100 : step)).toFixed(2) + " " + (29 - 27 * value / top).toFixed(2)).join("");
  for (const [kind, path] of [["area", line + "L100 30L0 30Z"], ["line", line]]) {
    const element = document.createElementNS(space, "path");
    element.setAttribute("class", kind);
    element.setAttribute("d", path);
    drawing.append(element);
  }
  return drawing;
}

function tile(key, name, value, unit, note, point) {
  const kept = state.history[key] = (state.history[key] || []);
  if (point !== null && point !== undefined) kept.push(point);
  if (kept.length > POINTS) kept.shift();
  return make("div", { class: "tile" }, make("div", { class: "name" }, name),
    make("div", { class: "value" }, value, unit ? make("small", {}, " " + unit) : null),
    make("div", { class: "note" }, note || ""), kept.length > 0 ? spark(name, kept) : null);
}

function render(status) {
  const before = state.last, at = performance.now(), seconds = (at - state.lastAt) / 1000;
  // A process that was started anew counts from zero again.
  const goesOn = before && before.started === status.started && before.pid === status.pid && seconds > 0;
  const per = (read) => goesOn ? Math.max(0, read(status) - read(before)) / seconds : null;
  const done = (kind) => (from) => sum(Object.fromEntries(Object.entries(from.handshakes.completed).map(([version, kinds]) => [version, kinds[kind]])));
  const full = per(done("full")), resumed = per(done("resumed")), failed = per((from) => sum(from.handshakes.failed));
  const accepted = per((from) => from.connections.accepted);
  const moved = (direction) => per((from) => sum(from.relay_bytes[direction]));
  const [down, up] = [moved("backend_to_client"), moved("client_to_backend")];
  const recent = full !== null && full + resumed > 0 ? resumed / (full + resumed) : status.handshakes.resumed_ratio;

  header(status);
  notices(status);
  fill("tiles",
    tile("open", "Open connections", number(status.connections.open), "", number(status.connections.accepted) + " accepted in all", status.connections.open),
    tile("accepted", "New connections", rate(accepted), "per second", "", accepted),
    tile("handshakes", "Handshakes", rate(full === null ? null : full + resumed), "per second", failed === null ? "" : rate(failed) + " failed per second", full === null ? null : full + resumed),
    tile("resumed", "Resumed", percent(recent), "", "since the start " + percent(status.handshakes.resumed_ratio), recent),
    tile("down", "To clients", down === null ? "–" : bytes(down), "per second", bytes(sum(status.relay_bytes.backend_to_client)) + " in all", down),
    tile("up", "To backends", up === null ? "–" : bytes(up), "per second", bytes(sum(status.relay_bytes.client_to_backend)) + " in all", up));
  workers(status, goesOn ? before : null, seconds);
  engine(status);
  listeners(status);
  tickets(status);
  fill("failures", counts("Failed handshakes by reason", status.handshakes.failed, "None so far."));
  fill("closes", counts("Ended connections by reason", status.connections.closed, "None so far."));
  facts(status);
  state.last = status;
  state.lastAt = at;
}

function header(status) {
  const phase = place("phase");
  if (phase.textContent !== status.phase) phase.textContent = status.phase;
  phase.className = "pill " + (status.phase === "serving" ? "good" : "warn");
  place("about").textContent = status.version + " · up " + span(status.uptime_seconds) + " · Linux " + status.kernel;
  document.title = (status.phase === "serving" ? "" : status.phase + " · ") + "Sluice · " + number(status.connections.open) + " open";
}

function notices(status) {
  const found = [];
  const failed = status.workers.filter((worker) => worker.state === "failed").length;
  if (failed > 0) found.push(["bad", failed + " of " + status.workers.length + " workers failed: restart the process."]);
  const stalled = status.workers.filter((worker) => worker.state === "stalled").length;
  if (stalled > 0) found.push(["bad", stalled + " of " + status.workers.length + " workers stand still: restart the process if they stay so."]);
  if (status.phase !== "serving") found.push(["warn", "The process is " + status.phase + ": " + number(status.connections.open) + " connections are still open."]);
  if (status.stapling.must_staple_missing > 0) found.push(["bad", number(status.stapling.must_staple_missing) + " certificates demand an OCSP response and have none: clients refuse them."]);
  if (status.stapling.certificates.revoked > 0) found.push(["bad", number(status.stapling.certificates.revoked) + " certificates have been revoked: replace them."]);
  if (status.log_lines_dropped > 0) found.push(["warn", number(status.log_lines_dropped) + " log lines were dropped: standard error is not read fast enough."]);
  const lost = sum(status.logs.lines.access) - status.logs.lines.access.written + status.logs.access_dropped;
  if (lost > 0) found.push(["warn", number(lost) + " records of the access log were lost."]);
  if (status.logs.lines.audit.lost > 0) found.push(["bad", number(status.logs.lines.audit.lost) + " records of the audit log were lost."]);
  const near = status.expiry.soonest.filter((ending) => ending.days_left < (ending.kind === "crl" ? 0 : 7));
  for (const ending of near.slice(0, NOTICES_MAX)) {
    found.push(["bad", "The " + KINDS[ending.kind] + " " + ending.subject + " of listener " + ending.listener + (ending.days_left < 0 ? " has expired." : " expires in " + ending.days_left + " days.")]);
  }
  if (near.length > NOTICES_MAX) found.push(["bad", "And " + (near.length - NOTICES_MAX) + " more: see /status."]);
  const text = JSON.stringify(found);
  // Only a change is worth a word of the screen reader.
  if (state.notices === text) return;
  state.notices = text;
  fill("notices", ...found.map(([kind, words]) => make("p", { class: "notice " + kind }, words)));
}

function workers(status, before, seconds) {
  const most = Math.max(1, ...status.workers.map((worker) => worker.connections_open));
  const rows = status.workers.map((worker, index) => {
    const earlier = before && before.workers[index];
    const speed = (key) => earlier ? Math.max(0, worker[key] - earlier[key]) / seconds : null;
    const states = { running: "good", stalled: "bad", drained: "warn", failed: "bad" };
    const throughput = speed("relay_bytes");
    return [named("worker " + worker.index, "CPU " + worker.cpu), make("span", { class: "pill " + (states[worker.state] || "") }, worker.state),
      bar([worker.connections_open, most - worker.connections_open]), number(worker.connections_open), rate(speed("handshakes")),
      throughput === null ? "–" : bytes(throughput)];
  });
  const open = status.workers.map((worker) => worker.connections_open), mean = sum(open) / Math.max(1, open.length);
  const spread = mean < 1 ? "too few connections to judge" : "the busiest has " + (most / mean).toFixed(2) + " times the mean";
  fill("workers", table("Workers", [["Worker"], ["State"], ["Balance", false, "optional"], ["Open", true], ["Handshakes/s", true], ["Bytes/s", true, "optional"]], rows),
    make("p", { class: "key" }, "Balance: " + spread));
  for (const piece of place("workers").querySelectorAll(".bar i + i")) piece.style.visibility = "hidden";
}

function engine(status) {
  const kernel = status.kernel_tls, parts = [];
  if (kernel.absent) parts.push(make("p", { class: kernel.wanted ? "notice warn" : "key" }, "No kernel TLS: " + kernel.absent));
  if (kernel.known_bugs.length > 0) parts.push(make("p", { class: "notice warn" }, "This kernel has published bugs in its TLS: " + kernel.known_bugs.join(", ")));
  for (const [direction, title] of Object.entries(DIRECTIONS)) {
    const ways = status.relay_bytes[direction], ours = ways.userspace, theirs = ways.kernel_copy + ways.kernel_splice;
    const promoted = kernel.promoted[direction], kept = sum(kernel.kept[direction]);
    parts.push(make("h3", {}, "Data " + title), bar([theirs, ours]),
      make("p", { class: "key" }, make("span", {}, make("i"), "kernel ", make("b", {}, bytes(theirs)), theirs > 0 ? " (" + percent(ways.kernel_splice / theirs) + " spliced)" : ""),
        make("span", { class: "second" }, make("i"), "userspace ", make("b", {}, bytes(ours)))),
      make("p", { class: "key" }, number(promoted) + " directions handed to the kernel, " + number(kept) + " ended in userspace"));
    if (kept > 0) parts.push(counts("Why directions " + title + " stayed in userspace", kernel.kept[direction], "", "Kept in userspace because"));
  }
  fill("engine", ...parts);
}

function daysLeft(date, now) {
  if (!date) return null;
  return Math.floor((new Date(date) - new Date(now || Date.now())) / 86400000);
}

function listeners(status) {
  const rows = status.listeners.map((listener) => {
    const days = daysLeft(listener.certificate_not_after, status.now);
    const kind = days === null ? "" : days < 7 ? "bad" : days < 30 ? "warn" : "good";
    const words = days === null ? "beyond 9999" : days < 0 ? "expired" : number(days) + " days";
    return [named(listener.name, listener.address), make("code", {}, listener.backend),
      named(make("span", { class: "pill " + kind }, words), (listener.certificate_not_after || "").slice(0, 10))];
  });
  const next = [], seen = {};
  for (const ending of status.expiry.soonest) {
    seen[ending.listener] = (seen[ending.listener] || 0) + 1;
    if (seen[ending.listener] > ENDINGS_SHOWN) continue;
    const kind = ending.days_left < 7 ? "bad" : ending.days_left < 30 ? "warn" : "good";
    const words = ending.days_left < 0 ? "expired" : number(ending.days_left) + " days";
    next.push([named(ending.listener, KINDS[ending.kind]), make("span", {}, ending.subject),
      named(make("span", { class: "pill " + (ending.kind === "crl" && ending.days_left >= 0 ? "" : kind) }, words), (ending.not_after || "").slice(0, 10))]);
  }
  const hidden = status.expiry.soonest.length - next.length + status.expiry.left_out;
  fill("listeners", table("Listeners and certificates", [["Listener"], ["Backend"], ["Certificate", true]], rows),
    make("h3", {}, "What ends next"), table("What ends next", [["Listener"], ["Name"], ["Left", true]], next),
    hidden > 0 ? make("p", { class: "key" }, number(hidden) + " more end later") : null);
}

function tickets(status) {
  const tickets = status.tickets, keys = tickets.keys, ring = keys.ring, parts = [];
  const ago = (date) => date ? span(Math.max(0, (new Date(status.now) - new Date(date)) / 1000)) + " ago" : "–";
  const ahead = (date) => date ? "in " + span(Math.max(0, (new Date(date) - new Date(status.now)) / 1000)) : "–";
  const facts = make("dl", {}, make("dt", {}, "Keys from"), make("dd", {}, keys.source.replaceAll("_", " ")),
    make("dt", {}, "Keys in use"), make("dd", {}, String(keys.key_count)), make("dt", {}, "Last changed"), make("dd", {}, ago(keys.changed)));
  if (ring) {
    const kind = ring.standing === "current" ? "good" : "warn";
    facts.append(make("dt", {}, "Ring"), make("dd", {}, make("span", { class: "pill " + kind }, ring.standing.replaceAll("_", " ")), " epoch " + ring.current_epoch),
      make("dt", {}, "Next key"), make("dd", {}, ahead(keys.next_key)), make("dt", {}, "Next ratchet"), make("dd", {}, ahead(keys.next_ratchet)),
      make("dt", {}, "Fingerprint"), make("dd", {}, make("code", {}, (ring.fingerprint || "–").slice(0, 16))));
  }
  parts.push(facts, make("h3", {}, "Sent"));
  parts.push(make("dl", {}, make("dt", {}, "Issued"), make("dd", {}, number(tickets.issued.issued)),
    make("dt", {}, "Not issued"), make("dd", {}, number(sum(tickets.issued) - tickets.issued.issued))));
  parts.push(make("h3", {}, "Received"), counts("Received tickets by result", tickets.opened, "None so far.", "Result"));
  if (sum(tickets.ring_events) > 0) parts.push(make("h3", {}, "Events"), counts("Events of the ring", tickets.ring_events, "", "Event"));
  fill("tickets", ...parts);
}

function facts(status) {
  const rows = [["Version", status.version], ["OpenSSL", status.openssl], ["Kernel", status.kernel], ["Process", status.pid],
    ["I/O", [status.ring.driver, ...status.ring.flags].join(" ")], ["Started", status.started || ""],
    ["Configuration", status.configuration.file || "none"], ["Loaded", status.configuration.loaded || ""]];
  const list = make("dl");
  for (const [term, value] of rows) list.append(make("dt", {}, term), make("dd", {}, String(value)));
  if (status.logs.audit_head) list.append(make("dt", {}, "Audit head"), make("dd", {}, make("code", {}, status.logs.audit_head.slice(0, 24) + "…")));
  list.append(make("dt", {}, "SHA-256"), make("dd", {}, make("code", {}, status.configuration.sha256.slice(0, 16) || "–")));
  const dials = counts("Attempts to connect to servers", status.backends.dials, "None so far.", "Result");
  fill("process", list, make("h3", {}, "Connecting to servers"), dials);
}

async function poll() {
  clearTimeout(state.timer);
  try {
    const answer = await fetch("/status", { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error("HTTP status " + answer.status);
    render(await answer.json());
    state.failures = 0;
  } catch (error) {
    state.failures += 1;
    const phase = place("phase");
    phase.textContent = "no answer";
    phase.className = "pill bad";
    state.error = String(error);
  }
  tick();
  if (!state.paused) state.timer = setTimeout(poll, document.hidden ? 5 * POLL_MS : POLL_MS);
}

function tick() {
  const age = place("age"), seconds = Math.floor((performance.now() - state.lastAt) / 1000);
  if (!state.last) age.textContent = state.error || "";
  else age.textContent = state.paused ? "paused" : seconds < 2 * POLL_MS / 1000 ? "live" : "last answer " + span(seconds) + " ago";
}

place("pause").addEventListener("click", () => {
  state.paused = !state.paused;
  place("pause").textContent = state.paused ? "Resume" : "Pause";
  place("pause").setAttribute("aria-pressed", String(state.paused));
  if (state.paused) { clearTimeout(state.timer); tick(); } else poll();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden && !state.paused) poll(); });
setInterval(tick, 1000);
poll();
