// Draws the runs in the page's data. What each value means is said in genlock/report/collect.py, which makes them.
"use strict";

const runs = JSON.parse(document.getElementById("runs").textContent);
const page = document.getElementById("page");
const tip = document.getElementById("tip");
const SVG = "http://www.w3.org/2000/svg";
const PARTS = runs[0].parts; // of a chunk's period, in order
const PART_OF = runs[0].drawn_as; // span or phase -> the part whose colour it has
const START = runs[0].start; // steps of a start, in order
const MOMENTS = [
  ["ready", "rss", "ready"],
  ["warm", "rss", "warm"],
  ["exit", "rss", "exit"],
  ["exit", "rss_peak", "highest"],
];
const [PHASE, SPAN, MARK] = [0, 1, 2];

// -- small things ------------------------------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const drawn = ["svg", "g", "rect", "line", "text", "image", "path", "clipPath", "pattern"].includes(tag);
  const node = drawn ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (known(value)) node.setAttribute(name, value);
  node.append(...children.filter(known));
  return node;
}

const colour = (part) => `var(--${part.replace(/,? /g, "-")})`;
const spanColour = (name) => (name.startsWith("waits in ") ? "var(--bad)" : colour(PART_OF[name] || "other"));
const number = (value, digits = 0) =>
  known(value)
    ? value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })
    : "–";
const seconds = (s) =>
  s < 1e-3 ? `${number(1e6 * s)} µs` : s < 1 ? `${number(1e3 * s, s < 0.1 ? 2 : 1)} ms` : `${number(s, 2)} s`;
const plural = (count, one) => `${number(count)} ${one}${count === 1 ? "" : "s"}`;
const megabytes = (bytes) => (bytes === undefined ? "–" : `${number(bytes / 1e6)} MB`);
const letter = (at) => (runs.length > 1 ? "AB"[at] : "");
const named = (at, what) => (runs.length > 1 ? `${letter(at)}: ${what}` : what);
const known = (value) => value !== null && value !== undefined;
const minus = (value, digits) => `${value < 0 ? "−" : value > 0 ? "+" : ""}${number(Math.abs(value), digits)}`;
// Of two values as they are shown: what a reader would get who subtracts one from the other.
function difference(a, b, digits) {
  const shown = (value) => Math.round(value * 10 ** digits);
  return known(a) && known(b) ? (shown(b) - shown(a)) / 10 ** digits : null;
}
const timeOfDay = (s, day) => {
  const [date, time] = new Date(1e3 * s).toISOString().replace("Z", "").split("T");
  return date === day ? time : `${date} ${time}`;
};

function hover(node, words) {
  node.addEventListener("pointerenter", () => {
    tip.textContent = words();
    tip.hidden = false;
  });
  node.addEventListener("pointermove", (event) => {
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    const below = event.clientY + tip.offsetHeight + 30 <= innerHeight;
    tip.style.top = `${below ? event.clientY + 16 : event.clientY - tip.offsetHeight - 12}px`;
  });
  node.addEventListener("pointerleave", () => {
    tip.hidden = true;
  });
  return node;
}

function section(title, words) {
  page.append(make("h2", {}, title));
  if (words) page.append(make("p", { class: "soft" }, words));
}

function keys(pairs) {
  page.append(
    make(
      "ul",
      { class: "keys" },
      ...pairs.map(([name, ...fills]) =>
        make("li", {}, ...fills.map((fill) => make("i", { style: `background:${fill}` })), name),
      ),
    ),
  );
}

const LEAST = 240; // pixels of a chart's width

// A chart as wide as there is room, drawn again when that changes. draw: from the width to what is in the box.
function chart(attributes, draw) {
  const box = make("div", attributes),
    room = make("div", {}, box);
  page.append(room);
  const again = () => box.replaceChildren(draw(Math.max(LEAST, room.clientWidth - 2)));
  window.addEventListener("resize", again);
  again();
}

function table(head, rows, about = () => "") {
  const counts = head.map(
    (_, index) => index > 0 && rows.every((row) => /^[−+-]?[\d.,]+( .{1,2})?$|^–?$/.test(row[index])),
  );
  const cell = (tag, value, index, row) =>
    make(tag, { class: `${counts[index] ? "n" : ""} ${row ? about(row, index) : ""}`.trim() || null }, value);
  page.append(
    make(
      "div",
      { class: "tables" },
      make(
        "table",
        {},
        make("thead", {}, make("tr", {}, ...head.map((value, index) => cell("th", value, index)))),
        make(
          "tbody",
          {},
          ...rows.map((row) =>
            make(
              "tr",
              { class: row.best ? "best" : null },
              ...row.map((value, index) => cell("td", value, index, row)),
            ),
          ),
        ),
      ),
    ),
  );
}

function steps(most, wanted) {
  const rough = most / wanted,
    size = 10 ** Math.floor(Math.log10(rough || 1));
  return size * [1, 2, 5, 10].find((each) => each * size >= rough);
}

// -- head --------------------------------------------------------------------------------------------------------

function head() {
  const titles = runs.map((run, at) => {
    const about = run.about;
    const ranks = about.world > 1 ? `${about.topology} of ${about.world} ranks` : "one rank";
    const pill = run.failure
      ? ["bad", `failed: ${run.failure.code}`]
      : run.causes.length
        ? ["bad", `failed: ${run.causes[0].code}`]
        : run.ended
          ? ["good", "ended well"]
          : ["open", "no end noted: killed, or still running"];
    const lost = run.chunks_lost
      ? ` The recorder has lost the chunks before ${run.chunks_lost}: no figure counts them.`
      : "";
    const when = [
      run.started ? `started ${run.started.slice(0, 19).replace("T", " ")} UTC` : null,
      ...Object.entries(about.versions || {}).map(([name, version]) => `${name} ${version}`),
      known(about.seed) ? `seed ${about.seed}` : null,
    ].filter(known);
    const what = [
      `${about.model} ${about.width}×${about.height}`,
      ranks,
      `plan ${about.plan}`,
      `context ${about.regime}`,
      `${about.steps} steps`,
      `${about.dtype} on ${about.device}`,
    ];
    return make(
      "div",
      { class: "run" },
      make(
        "div",
        { class: "head" },
        make("h1", {}, named(at, run.folder)),
        make("span", { class: `pill ${pill[0]}` }, pill[1]),
      ),
      make(
        "p",
        { class: "soft" },
        (about.model ? what.join(" · ") : "What was run is not noted in this folder.") + lost,
        when.length ? make("br") : null,
        when.join(" · "),
      ),
    );
  });
  page.append(...titles);
}

// name, words, digits, 1 where more is better and -1 where less is; of counts there is no difference, as runs are of
// different lengths.
const TILES = [
  ["frames_per_s", "delivered frames/s", 1, 1],
  ["period_ms", () => `period of a chunk, ms, median of ${each("periods").join(" → ")}`, 0, -1],
  ["period_p95_ms", "period, 95 %, ms", 0, -1],
  ["longest_ms", "the longest of these periods, ms", 0, -1],
  ["first_frame_s", "start to first frames, s", 1, -1],
  ["prompt_ms", "prompt to picture, median, ms", 0, -1],
  ["mesh_idle_ms", "generator waits, median, ms", 0, -1],
  ["late_chunks", "chunks slower than they play", 0],
  ["frames", "frames delivered", 0],
];
const each = (name) => runs.map((run) => run.figures[name]);

function tiles() {
  const left = each("period_p95_ms").every(known) ? "longest_ms" : "period_p95_ms";
  const shown = TILES.filter(([name]) => name !== left && (name !== "longest_ms" || each(name).some(known)));
  page.append(
    make(
      "div",
      { class: "tiles" },
      ...shown.map(([name, words, digits, better]) => {
        const values = each(name);
        const of = name === "late_chunks" ? each("timed_chunks") : [];
        const figures = values.map((value, at) => number(value, digits) + (known(value) && of[at] ? ` of ${of[at]}` : ""));
        const delta =
          better && runs.length > 1 && values.every(known)
            ? make("span", { class: `delta ${verdict(values[1] - values[0], better)}` }, change(values, digits))
            : null;
        const lost = name === "frames" ? each("dropped_chunks") : [];
        const said = typeof words === "string" ? words : words();
        return make(
          "div",
          { class: "tile", "data-figure": name },
          make("b", {}, figures.join(" → ")),
          make(
            "span",
            { class: "soft" },
            lost.some(Boolean) ? `${said}; chunks begun and dropped: ${lost.join(" → ")}` : said,
          ),
          delta ? make("br") : null,
          delta,
        );
      }),
    ),
  );
}

function change([a, b], digits) {
  const share = a ? ` (${minus(Math.round(100 * (b / a - 1)), 0)} %)` : "";
  return minus(difference(a, b, digits), digits) + share;
}
const verdict = (grown, better) => (grown * better > 0 ? "better" : grown * better < 0 ? "worse" : "");

function failures() {
  runs.forEach((run, at) => {
    const first = run.failure || run.causes[0];
    if (!first) return;
    const place = [
      `in phase ${first.phase}`,
      first.call_id >= 0 ? `call ${first.call_id}` : "",
      first.chunk >= 0 ? `chunk ${first.chunk}` : "",
      first.op > 0 ? `after ${plural(first.op, "collective")}` : "",
    ]
      .filter(Boolean)
      .join(", ");
    const pid = first.pid > 0 ? ` (pid ${first.pid})` : "";
    const told = first.told_by >= 0 && first.told_by !== first.rank ? `, as rank ${first.told_by} says` : "";
    const others = run.causes.filter((cause) => !(cause.rank === first.rank && cause.code === first.code));
    page.append(
      make(
        "div",
        { class: "failure" },
        make("h2", {}, named(at, run.failure ? "what came first" : "what one rank wrote at its end")),
        make(
          "dl",
          {},
          ...[
            ["what", `${first.code}: ${first.text}`],
            ["who", `rank ${first.rank}${pid}, ${place}${told}`],
            ["remedy", first.remedy],
            ...others.map((cause) => [`rank ${cause.rank} wrote`, `${cause.code}: ${cause.text} (${cause.phase})`]),
          ].flatMap(([word, text]) => [make("dt", {}, word), make("dd", {}, text)]),
        ),
      ),
    );
  });
}

// -- the timeline ------------------------------------------------------------------------------------------------

const ROW = 15,
  GAP = 4,
  LEFT = 64,
  AXIS = 22,
  THUMB = 34;

function timelineRows() {
  const rows = [];
  runs.forEach((run, at) => {
    if (run.asked.length) rows.push({ run, at, kind: "asked", height: 18 });
    if (Object.keys(run.pictures).length) rows.push({ run, at, kind: "pictures", height: THUMB + 4 });
    for (const { rank, seen_s } of run.ranks) {
      const own = run.spans.filter((span) => span[0] === rank);
      const deep = Math.max(-1, ...own.filter((span) => span[1] === SPAN).map((span) => span[3]));
      rows.push({ run, at, kind: "rank", rank, seen_s, height: (deep + 2) * ROW + GAP, spans: own });
    }
  });
  let top = AXIS;
  for (const row of rows) {
    row.top = top;
    top += row.height + GAP;
  }
  return [rows, top];
}

function spanWords(run, [rank, kind, name, , began, length, call, chunk, count, ended]) {
  const lines = [
    `${run.names[name]}  ${kind === MARK && !length ? "" : seconds(length / 1e6)}`,
    `rank ${rank}${chunk >= 0 ? `, chunk ${chunk}` : ""}${call >= 0 ? `, call ${call}` : ""}`,
    `begins at ${number(began / 1e6, 3)} s`,
  ];
  if (kind === PHASE && count > 0) lines.push(`${plural(count, "collective")} before it`);
  if (!ended) {
    const { seen_s } = run.ranks.find((each) => each.rank === rank);
    lines.push(`never ended: the rank was in it at ${number(seen_s, 3)} s, its last sign of life`);
  }
  return lines.join("\n");
}

function timeline() {
  const left = runs.reduce((sum, run) => sum + run.spans_left_out, 0);
  section(
    "Timeline",
    "What each rank did: its phases above, the spans within them below; time runs from the first note of a run." +
      (left ? ` ${plural(left, "span")} between the first chunks and the last are left out.` : ""),
  );
  const end = Math.max(...runs.map((run) => run.end_s)) || 1;
  const [rows, height] = timelineRows();
  const view = { from: 0, to: end };
  const box = make("div", {
    class: "chart",
    id: "timeline",
    tabindex: "0",
    "aria-label": "timeline of all ranks; arrow keys move, plus and minus zoom",
  });
  const button = (words, act, id) => {
    const made = make("button", { id, type: "button" }, words);
    made.addEventListener("click", act);
    return made;
  };
  const chunks = runs[0].chunks;
  const few = chunks.slice(-4),
    failed = runs.some((run) => run.failure || run.causes.length);
  page.append(
    make(
      "div",
      { class: "bar" },
      button("closer", () => zoom(0.5), "closer"),
      button("wider", () => zoom(2), "wider"),
      button("all", () => show(0, end), "all"),
      few.length > 1 || (few.length && failed)
        ? button("last chunks", () => show(few[0][1] - 0.02, failed ? end : few[few.length - 1][1] + 0.05), "last")
        : null,
      make("span", { class: "soft", id: "window" }),
    ),
    box,
  );
  const unended = runs.some((run) => run.spans.some((span) => !span[9]));
  keys([
    ["generator call, denoise", colour("denoise")],
    ["recompute", colour("recompute")],
    ["generate, what is left of it", colour("generate, rest")],
    ["hand out", colour("hand out")],
    ["checks, rendezvous", colour("checks")],
    ["decode, deliver", colour("decode")],
    ["encode, warm-up", colour("encode")],
    ["plan, load", colour("plan")],
    ["load media", colour("load media")],
    ["write", colour("write")],
    ["gates 1, 2a, 2b", colour("gate 1"), colour("gate 2a"), colour("gate 2b")],
    ["idle", colour("idle")],
    ["launch, other", colour("other")],
    ...(unended
      ? [
          ["waits in a collective and does not come out", "var(--bad)"],
          ["in it to the end, without a sign of life", "var(--silent)"],
        ]
      : []),
  ]);

  function show(from, to) {
    const length = Math.max(1e-4, Math.min(end * 1.02, to - from));
    view.from = Math.max(-0.01 * end, Math.min(from, end * 1.01 - length));
    view.to = view.from + length;
    requestAnimationFrame(draw);
  }
  function zoom(by, share = 0.5) {
    const length = view.to - view.from,
      at = view.from + share * length;
    show(at - share * length * by, at + (1 - share) * length * by);
  }

  function draw() {
    const width = box.clientWidth || 1000,
      room = width - LEFT - 8,
      length = view.to - view.from;
    const x = (s) => LEFT + ((s - view.from) / length) * room;
    const svg = make("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
    svg.append(make("clipPath", { id: "room" }, make("rect", { x: LEFT, y: 0, width: room, height })));
    svg.append(
      make(
        "pattern",
        { id: "silent", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
        make("rect", { width: 2.5, height: 6, fill: "var(--bad)" }),
      ),
    );
    const inside = make("g", { "clip-path": "url(#room)" });
    const step = steps(length, room / 110),
      digits = Math.max(0, -Math.floor(Math.log10(step)));
    for (let s = Math.ceil(view.from / step) * step; s <= view.to; s += step) {
      inside.append(
        make("line", { class: "grid", x1: x(s), x2: x(s), y1: 14, y2: height }),
        make("text", { x: x(s) + 3, y: 11 }, `${number(s, digits)} s`),
      );
    }
    for (const row of rows) drawRow(row, inside, svg, x, width);
    svg.append(inside);
    box.replaceChildren(svg);
    document.getElementById("window").textContent =
      `${number(Math.max(0, view.from), 2)} to ${number(view.to, 2)} s of ${number(end, 1)} s`;
  }

  function drawRow(row, inside, svg, x, width) {
    const { run } = row;
    const label = row.kind === "rank" ? `rank ${row.rank}` : row.kind === "asked" ? "prompts" : "frames";
    svg.append(
      make("text", { class: row.kind === "rank" ? "strong" : "", x: 8, y: row.top + 12 }, named(row.at, label)),
    );
    if (row.kind === "asked") {
      const asked = run.asked.filter((each) => each.shown_s !== null);
      asked.forEach((each, index) => {
        const from = x(each.shown_s),
          to = x(index + 1 < asked.length ? asked[index + 1].shown_s : run.end_s);
        if (to < LEFT || from > width) return;
        const start = Math.max(from, LEFT),
          letters = Math.floor((to - start - 12) / 5.6);
        const words =
          letters < 4 ? "" : each.words.length > letters ? each.words.slice(0, letters - 1) + "…" : each.words;
        const group = make(
          "g",
          {},
          make("rect", {
            x: from,
            y: row.top,
            width: Math.max(2, to - from - 2),
            height: 16,
            rx: 3,
            fill: "var(--accent)",
            "fill-opacity": 0.16,
          }),
          make("rect", { x: from, y: row.top, width: 2, height: 16, fill: "var(--accent)" }),
          make("text", { class: "strong", x: start + 6, y: row.top + 12 }, words),
        );
        inside.append(
          hover(
            group,
            () => `${each.words}\nfirst shown with chunk ${each.chunk}, at ${number(each.at_s, 2)} s of the video`,
          ),
        );
      });
      return;
    }
    if (row.kind === "pictures") {
      let free = LEFT;
      for (const [chunk, done, frames, period] of run.chunks) {
        const at = x(done),
          source = run.pictures[chunk],
          size = (THUMB * (run.about.width || 3)) / (run.about.height || 2);
        inside.append(
          make("line", { x1: at, x2: at, y1: row.top, y2: row.top + THUMB, stroke: "var(--soft)", "stroke-width": 1 }),
        );
        if (source && at + 2 >= free && at < width) {
          const shown = make("image", {
            href: source,
            x: at + 2,
            y: row.top,
            height: THUMB,
            width: size,
            preserveAspectRatio: "none",
          });
          inside.append(
            hover(
              shown,
              () =>
                `chunk ${chunk}: ${frames} frames handed on at ${number(done, 2)} s` +
                (period === null ? "" : `\n${seconds(period / 1e3)} after the one before`),
            ),
          );
          free = at + 4 + size;
        }
      }
      return;
    }
    for (const span of row.spans) {
      const [, kind, name, depth, began, length, , , , ended] = span;
      const from = x(began / 1e6),
        to = x((began + length) / 1e6);
      if (to < LEFT || from > width || kind === MARK || (kind === SPAN && to - from < 0.25)) continue;
      const top = row.top + (kind === PHASE ? 0 : (depth + 1) * ROW);
      const lived = ended ? to : Math.max(from, Math.min(to, x(row.seen_s)));
      const wide = Math.max(kind === PHASE ? 0.5 : 0.3, lived - from);
      const drawn = make("rect", {
        class: ended ? "span" : "span open",
        x: from,
        y: top,
        width: wide,
        height: ROW - 1,
        fill: spanColour(run.names[name]),
        "fill-opacity": kind === PHASE && run.names[name] !== "idle" ? 0.55 : 1,
      });
      inside.append(hover(drawn, () => spanWords(run, span)));
      if (to - lived > 1) {
        const rest = { class: "span open", x: lived, y: top, width: to - lived, height: ROW - 1, fill: "url(#silent)" };
        inside.append(hover(make("rect", rest), () => spanWords(run, span)));
      }
      const waits = run.names[name].startsWith("waits in "),
        start = Math.max(from, LEFT),
        letters = Math.floor((Math.min(to, width) - start - 8) / 6);
      const words =
        waits && letters >= 5 && letters < run.names[name].length
          ? run.names[name].slice(0, letters - 1) + "…"
          : run.names[name];
      const haloed = lived - start < 6 * words.length; // some of it stands where the hatching is
      if (words.length <= letters)
        inside.append(
          make(
            "text",
            {
              class: haloed ? "strong haloed" : "strong",
              x: start + 4,
              y: top + 11,
              "pointer-events": "none",
              style: haloed ? null : waits ? "fill:var(--paper)" : kind === SPAN ? "fill:#10131a" : null,
            },
            words,
          ),
        );
    }
  }

  box.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey && !event.shiftKey) return;
      event.preventDefault();
      const share = Math.max(
        0,
        Math.min(1, (event.clientX - box.getBoundingClientRect().left - LEFT) / (box.clientWidth - LEFT)),
      );
      if (event.shiftKey) {
        const by = ((event.deltaY + event.deltaX) / 800) * (view.to - view.from);
        show(view.from + by, view.to + by);
      } else zoom(event.deltaY > 0 ? 1.25 : 0.8, share);
    },
    { passive: false },
  );
  let held = null;
  box.addEventListener("pointerdown", (event) => {
    held = { x: event.clientX, ...view };
  });
  window.addEventListener("pointermove", (event) => {
    if (!held) return;
    const by = ((held.x - event.clientX) / (box.clientWidth - LEFT)) * (held.to - held.from);
    if (Math.abs(held.x - event.clientX) > 3) show(held.from + by, held.to + by);
  });
  window.addEventListener("pointerup", () => {
    held = null;
  });
  box.addEventListener("keydown", (event) => {
    const by = 0.2 * (view.to - view.from);
    const act = {
      ArrowLeft: () => show(view.from - by, view.to - by),
      ArrowRight: () => show(view.from + by, view.to + by),
      "+": () => zoom(0.5),
      "-": () => zoom(2),
      0: () => show(0, end),
    }[event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  });
  window.addEventListener("resize", draw);
  draw();
}

// -- where a chunk's time went -----------------------------------------------------------------------------------

const WIDEST_BAR = 88,
  NARROWEST_BAR = 7;

function periods() {
  const timed = runs.map((run) => run.chunks.filter((chunk) => chunk[3] !== null));
  if (!timed.some((chunks) => chunks.length)) return;
  section(
    "Period of each chunk, by part",
    "From one chunk handed on to the next, on rank 0; the first chunk has none. The line is how long a chunk plays: " +
      "below it the stream keeps up.",
  );
  const most = 1.08 * Math.max(...timed.flat().map((chunk) => chunk[3]));
  const count = Math.max(...timed.map((chunks) => chunks.length));
  runs.forEach((run, at) => {
    if (runs.length > 1) page.append(make("p", { class: "name" }, named(at, run.folder)));
    if (timed[at].length)
      chart({ class: "chart scroll fitted periods" }, (room) => periodBars(run, timed[at], most, room, count));
    else page.append(make("p", { class: "soft" }, "No two chunks were handed on."));
    if (run.chunks_left_out)
      page.append(
        make(
          "p",
          { class: "soft" },
          `${plural(run.chunks_left_out, "earlier chunk")} not drawn; the medians count them.`,
        ),
      );
  });
  keys(PARTS.map((part) => [part, colour(part)]));
}

// count: of the run that has the most, so that two runs are drawn to one scale
function periodBars(run, chunks, most, room, count) {
  const height = 210,
    bottom = 18,
    top = 8,
    y = (ms) => height - bottom - (ms / most) * (height - bottom - top);
  const wide = Math.max(NARROWEST_BAR, Math.min(WIDEST_BAR, (room - LEFT - 12) / count));
  const width = LEFT + wide * chunks.length + 12,
    svg = make("svg", { width, height });
  const step = steps(most, 4);
  for (let ms = 0; ms < most; ms += step)
    svg.append(
      make("line", { class: "grid", x1: LEFT, x2: width, y1: y(ms), y2: y(ms) }),
      make("text", { x: 8, y: y(ms) + 4 }, `${number(ms)} ms`),
    );
  chunks.forEach(([chunk, , frames, period, parts], index) => {
    const left = LEFT + index * wide + 2;
    let base = 0;
    const group = make("g", {});
    for (const part of PARTS) {
      const ms = parts[part] || 0;
      if (ms)
        group.append(
          make("rect", {
            x: left,
            width: wide - 3,
            y: y(base + ms),
            height: Math.max(0.4, y(base) - y(base + ms)),
            fill: colour(part),
          }),
        );
      base += ms;
    }
    const played = run.about.fps ? (1e3 * frames) / run.about.fps : null;
    if (played && played < most)
      group.append(
        make("line", {
          x1: left - 2,
          x2: left + wide - 2,
          y1: y(played),
          y2: y(played),
          stroke: "var(--ink)",
          "stroke-width": 1.5,
        }),
      );
    if (wide > 18 || chunk % 10 === 0) group.append(make("text", { x: left, y: height - 4 }, `${chunk}`));
    svg.append(
      hover(group, () =>
        [
          `chunk ${chunk}: ${number(period)} ms for ${frames} frames`,
          ...PARTS.filter((part) => parts[part]).map((part) => `${part} ${number(parts[part], 1)} ms`),
        ].join("\n"),
      ),
    );
  });
  return svg;
}

function counted(run) {
  const { periods, steady } = run.figures;
  if (!periods) return "none";
  return steady ? `${plural(periods, "chunk")} after the first two` : "chunk 1 alone, the first with a context";
}

function medians() {
  if (!runs.some((run) => run.figures.periods)) return;
  section(
    "A chunk's time, median by part",
    `Counted: ${runs.map((run, at) => named(at, counted(run))).join("; ")}.`,
  );
  const row = (name, values) => [
    name,
    ...values.map((value) => number(value, 1)),
    ...(runs.length > 1 ? [signed(...values, 1)] : []),
  ];
  const signed = (a, b, digits) => (known(difference(a, b, digits)) ? minus(difference(a, b, digits), digits) : "–");
  const total = row("whole period", each("period_ms"));
  total.best = true;
  table(
    ["part, ms", ...runs.map((run, at) => named(at, run.folder)), ...(runs.length > 1 ? ["B − A"] : [])],
    [
      ...PARTS.map((part) =>
        row(
          part,
          runs.map((run) => run.parts_ms[part]),
        ),
      ),
      total,
    ],
  );
  if (runs.some((run) => run.figures.periods > 1)) {
    const sums = runs.flatMap((run, at) =>
      run.figures.periods > 1
        ? [named(at, number(Object.values(run.parts_ms).reduce((sum, ms) => sum + ms, 0), 1))]
        : [],
    );
    page.append(
      make(
        "p",
        { class: "soft note" },
        `Each line is a median of its own: added up, the parts make ${sums.join(", ")} ms, which is not the median of ` +
          "the whole. The arithmetic below is of these medians, too.",
      ),
    );
  }
  runs.forEach((run, at) => {
    if (!run.fits.length) return;
    section(
      named(at, "Which arithmetic it fits"),
      "G is what the mesh or this rank generates with, hand-out and checks in it; E is preparing a chunk, V decoding " +
        "and writing it. The closest comes first.",
    );
    table(
      ["a period is", "would be, ms", "measured is", "because"],
      run.fits.map((fit, index) => {
        const row = [fit.formula, number(fit.says_ms), `${minus(Number((100 * fit.off).toFixed(1)), 1)} %`, fit.meaning];
        row.best = index === 0;
        return row;
      }),
    );
  });
}

// -- ranks -------------------------------------------------------------------------------------------------------

function bars(lines, most, unit) {
  chart({ class: "chart scroll" }, (width) => {
    const letters = (words) => 6.4 * Math.max(...words.map((each) => each.length));
    const sums = lines.map(([, pieces, words]) => words(pieces.reduce((sum, [, value]) => sum + value, 0)));
    const left = letters(lines.map(([label]) => label)) + 14,
      right = letters(sums) + 14,
      svg = make("svg", { width, height: lines.length * 24 + 26 });
    const step = steps(most, Math.max(2, Math.min(6, (width - left - right) / 70))),
      x = (value) => left + (value / most) * (width - left - right);
    for (let value = 0; value <= most; value += step)
      svg.append(
        make("line", { class: "grid", x1: x(value), x2: x(value), y1: 0, y2: lines.length * 24 + 6 }),
        make("text", { x: x(value) + 2, y: lines.length * 24 + 20 }, unit(value)),
      );
    lines.forEach(([label, pieces, words], row) => {
      let base = 0;
      svg.append(make("text", { class: "strong", x: 8, y: row * 24 + 18 }, label));
      for (const [name, value, fill] of pieces) {
        svg.append(
          hover(
            make("rect", {
              x: x(base),
              y: row * 24 + 5,
              width: Math.max(0.5, x(base + value) - x(base) - 0.5),
              height: 18,
              fill,
              rx: 2,
            }),
            () => `${label}\n${name}: ${words(value)}`,
          ),
        );
        base += value;
      }
      svg.append(make("text", { x: x(base) + 6, y: row * 24 + 18 }, sums[row]));
    });
    return svg;
  });
}

const everyRank = () => runs.flatMap((run, at) => run.ranks.map((rank) => [named(at, `rank ${rank.rank}`), rank]));

function starts() {
  const lines = everyRank()
    .filter(([, rank]) => rank.start_s)
    .map(([label, rank]) => [
      label,
      Object.entries(rank.start_s).map(([phase, s]) => [phase, s, spanColour(phase)]),
      (s) => `${number(s, 2)} s`,
    ]);
  if (!lines.length) return;
  section("Start, by phase and rank", "From the start of the process to the first chunk that could be asked for.");
  bars(
    lines,
    1.02 * Math.max(...lines.map(([, pieces]) => pieces.reduce((sum, piece) => sum + piece[1], 0))),
    (s) => `${number(s, s % 1 ? 1 : 0)} s`,
  );
  keys(
    START.filter((phase) => lines.some(([, pieces]) => pieces.some(([name]) => name === phase))).map((phase) => [
      phase,
      spanColour(phase),
    ]),
  );
}

function memory() {
  const ranks = everyRank().filter(([, rank]) => rank.memory_bytes && Object.keys(rank.memory_bytes).length);
  if (!ranks.length) return;
  section(
    "Memory of each rank",
    "Resident, as the system counts it: ready for the first chunk, after two chunks, at the end, and the highest ever.",
  );
  const lines = ranks.flatMap(([label, rank]) =>
    MOMENTS.filter(([moment, kind]) => (rank.memory_bytes[moment] || {})[kind]).map(([moment, kind, words]) => [
      `${label}, ${words}`,
      [[words, rank.memory_bytes[moment][kind] / 1e6, words === "highest" ? colour("denoise") : colour("recompute")]],
      (mb) => `${number(mb)} MB`,
    ]),
  );
  bars(lines, 1.02 * Math.max(1, ...lines.map(([, pieces]) => pieces[0][1])), (mb) => `${number(mb)} MB`);
  const device = ranks.filter(([, rank]) => Object.values(rank.memory_bytes).some((held) => held.cuda_reserved_peak));
  if (device.length)
    table(
      ["on the device, highest", "reserved"],
      device.map(([label, rank]) => [
        label,
        megabytes(Math.max(...Object.values(rank.memory_bytes).map((held) => held.cuda_reserved_peak || 0))),
      ]),
    );
}

function calls() {
  const ranks = everyRank().filter(([, rank]) => rank.calls);
  if (!ranks.length) return;
  section(
    "What each rank called, and loaded",
    "Spans by name over the whole process, warm-up included; the time is what they took together.",
  );
  const names = [...new Set(ranks.flatMap(([, rank]) => Object.keys(rank.calls)))].sort();
  table(
    ["span", ...ranks.flatMap(([label]) => [`${label}, calls`, "time"])],
    names.map((name) => [
      name,
      ...ranks.flatMap(([, rank]) => [
        number(rank.calls[name]),
        rank.seconds && name in rank.seconds ? seconds(rank.seconds[name]) : "–",
      ]),
    ]),
  );
  for (const [label, rank] of ranks) {
    if (!rank.modules || !rank.modules.length) continue;
    page.append(
      make(
        "details",
        {},
        make(
          "summary",
          {},
          `${label} (pid ${rank.pid} on ${rank.host}) has loaded ${plural(rank.modules.length, "module")}, ` +
            `${rank.modules.some((name) => name.startsWith("genlock.media")) ? "" : "none of "}words and pixels`,
        ),
        make("ul", { class: "modules" }, ...rank.modules.map((name) => make("li", {}, name))),
      ),
    );
  }
}

function pictures() {
  runs.forEach((run, at) => {
    const shown = Object.entries(run.pictures);
    if (!shown.length) return;
    section(named(at, "The first frame of each chunk"));
    const words = (chunk) =>
      run.asked
        .filter((each) => each.chunk <= chunk)
        .map((each) => each.words)
        .pop() || "";
    page.append(
      make(
        "div",
        { class: "strip" },
        ...shown.map(([chunk, source]) => {
          const asked = run.asked.some((each) => each.chunk === Number(chunk));
          return make(
            "figure",
            {},
            make("img", { src: source, alt: `first frame of chunk ${chunk}: ${words(Number(chunk))}` }),
            make("figcaption", {}, `chunk ${chunk}${asked ? `: ${words(Number(chunk))}` : ""}`),
          );
        }),
      ),
    );
  });
}

function clocks() {
  const rows = runs.flatMap((run, at) => {
    const day = (run.started || "").slice(0, 10);
    return run.ranks.map((rank) => [
      named(at, `rank ${rank.rank}`),
      known(rank.first_at) ? timeOfDay(rank.first_at, day) : "–",
      timeOfDay(rank.seen_at, day),
      rank.aligned_by,
    ]);
  });
  section(
    "Clocks",
    "Each rank's first and last note, by the time of day (UTC) of its own host; and how its clock was put beside the " +
      "others.",
  );
  table(["rank", "first note", "last note", "aligned by"], rows);
}

page.replaceChildren();
head();
failures();
tiles();
timeline();
pictures();
periods();
medians();
starts();
memory();
calls();
clocks();
document.documentElement.dataset.drawn = "yes";
