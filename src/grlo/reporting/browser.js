// Shows what two arms answered to the same problems. Texts are untrusted: they reach the page as
// text nodes only.
(function () {
  "use strict";

  const PER_PAGE = 10;
  const LONG_CHARACTERS = 1500;
  const LONG_LINES = 24;
  const CHANGES = {
    right: "became right",
    wrong: "became wrong",
    same: "same score",
    unscored: "without a score",
  };

  const data = JSON.parse(document.getElementById("browser-data").textContent);
  const labels = new Map(data.arms.map((arm, index) => [arm, data.labels[index]]));
  const controls = document.getElementById("browser-controls");
  const list = document.getElementById("browser-list");
  const back = document.getElementById("browser-back");
  const next = document.getElementById("browser-next");
  let page = 0;

  // What is chosen --------------------------------------------------------------------------------

  function chosen() {
    const form = new FormData(controls);
    const choice = Object.fromEntries(form.entries());
    choice.search = choice.search.trim().toLowerCase();
    return choice;
  }

  function answerOf(group, arm) {
    return Object.hasOwn(group.answers, arm) ? group.answers[arm] : null;
  }

  function difference(pair, key) {
    const before = pair.left && pair.left[key];
    const after = pair.right && pair.right[key];
    return typeof before === "number" && typeof after === "number" ? after - before : null;
  }

  function changeOf(pair) {
    const change = difference(pair, "score");
    if (change === null) return "unscored";
    return change > 0 ? "right" : change < 0 ? "wrong" : "same";
  }

  const SORT_KEYS = {
    order: (pair) => -pair.index,
    reward: (pair) => (pair.right ? pair.right.reward : null),
    reward_change: (pair) => difference(pair, "reward"),
    length: (pair) => (pair.right ? pair.right.tokens : null),
    length_change: (pair) => difference(pair, "tokens"),
    verdict_change: (pair) => difference(pair, "score"),
  };

  function holds(pair, needle) {
    const { question, reference } = pair.group;
    const texts = [question, reference];
    for (const answer of [pair.left, pair.right]) {
      if (answer) texts.push(answer.text, answer.note);
    }
    return texts.some((text) => text.toLowerCase().includes(needle));
  }

  function selected(choice) {
    const pairs = data.groups
      .map((group, index) => ({
        group,
        index,
        left: answerOf(group, choice.left),
        right: answerOf(group, choice.right),
      }))
      .filter((pair) => !choice.domain || pair.group.domain === choice.domain)
      .filter((pair) => !choice.benchmark || pair.group.benchmark === choice.benchmark)
      .filter((pair) => !choice.change || changeOf(pair) === choice.change)
      .filter((pair) => !choice.search || holds(pair, choice.search));
    const keyOf = SORT_KEYS[choice.sort];
    const sign = choice.direction === "up" && choice.sort !== "order" ? 1 : -1;
    return pairs
      .map((pair) => ({ pair, key: keyOf(pair) }))
      .sort((one, other) => {
        // What has no number comes last, whichever way the others go.
        if (one.key === null || other.key === null) {
          return (one.key === null) - (other.key === null) || one.pair.index - other.pair.index;
        }
        return sign * (one.key - other.key) || one.pair.index - other.pair.index;
      })
      .map((item) => item.pair);
  }

  // What is shown ---------------------------------------------------------------------------------

  function element(name, kind, text) {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function marked(text, needle) {
    const made = element("pre");
    const lower = text.toLowerCase();
    // Lower case of some letters is longer: places in it would be others.
    if (!needle || lower.length !== text.length) {
      made.textContent = text;
      return made;
    }
    let from = 0;
    for (let at = lower.indexOf(needle); at >= 0; at = lower.indexOf(needle, from)) {
      made.append(text.slice(from, at), element("mark", "", text.slice(at, at + needle.length)));
      from = at + needle.length;
    }
    made.append(text.slice(from));
    return made;
  }

  function passage(text, needle) {
    const box = element("div", "passage");
    const shown = marked(text, needle);
    box.append(shown);
    const isLong = text.length > LONG_CHARACTERS || text.split("\n").length > LONG_LINES;
    if (isLong && !(needle && text.toLowerCase().includes(needle))) {
      const button = element("button", "more", "Show all");
      button.type = "button";
      button.setAttribute("aria-expanded", "false");
      shown.classList.add("cut");
      button.addEventListener("click", () => {
        const isCut = shown.classList.toggle("cut");
        button.textContent = isCut ? "Show all" : "Show less";
        button.setAttribute("aria-expanded", String(!isCut));
      });
      box.append(button);
    }
    return box;
  }

  function number(value) {
    return String(Number(value.toPrecision(3)));
  }

  function facts(answer, pair) {
    const isRight = answer === pair.right && pair.left !== pair.right;
    const changed = (key) => {
      const change = isRight ? difference(pair, key) : null;
      return change ? " (" + (change > 0 ? "+" : "") + number(change) + ")" : "";
    };
    const words = [answer.score === null ? "no score" : "score " + number(answer.score)];
    if (answer.reward !== null) words.push("reward " + number(answer.reward) + changed("reward"));
    words.push(answer.tokens + " tokens" + changed("tokens"), "end: " + answer.end);
    return words.join(" · ");
  }

  function side(arm, answer, pair, needle) {
    const box = element("div", "side");
    box.append(element("h4", "", labels.get(arm)));
    if (!answer) {
      box.append(element("p", "note", "no answer to this problem"));
      return box;
    }
    box.append(element("p", "note", facts(answer, pair)));
    box.append(passage(answer.text || "(nothing)", needle));
    if (answer.note) box.append(element("p", "note", answer.note));
    return box;
  }

  function article(pair, choice) {
    const { group } = pair;
    const box = element("article", "problem");
    const title = element("h3", "", group.benchmark + " " + group.problem + " ");
    const change = changeOf(pair);
    title.append(element("span", "tag " + change, CHANGES[change]));
    title.append(" ", element("span", "tag", group.domain.replaceAll("_", " ")));
    box.append(title, passage(group.question, choice.search));
    if (group.reference) {
      const reference = element("details");
      reference.open = Boolean(
        choice.search && group.reference.toLowerCase().includes(choice.search)
      );
      reference.append(element("summary", "", "Reference"));
      reference.append(marked(group.reference, choice.search));
      box.append(reference);
    }
    const sides = element("div", "sides");
    sides.append(side(choice.left, pair.left, pair, choice.search));
    sides.append(side(choice.right, pair.right, pair, choice.search));
    box.append(sides);
    return box;
  }

  function count(pairs) {
    const numbers = { right: 0, wrong: 0, same: 0, unscored: 0 };
    pairs.forEach((pair) => (numbers[changeOf(pair)] += 1));
    const words = Object.keys(CHANGES)
      .filter((change) => numbers[change])
      .map((change) => numbers[change] + " " + CHANGES[change]);
    const all = pairs.length + " of " + data.groups.length + " problems";
    return [all, words.join(", ")].filter(Boolean).join(": ");
  }

  function show() {
    const choice = chosen();
    const pairs = selected(choice);
    const pages = Math.max(1, Math.ceil(pairs.length / PER_PAGE));
    page = Math.min(page, pages - 1);
    const shown = pairs.slice(page * PER_PAGE, (page + 1) * PER_PAGE);
    list.replaceChildren(...shown.map((pair) => article(pair, choice)));
    document.getElementById("browser-count").textContent = count(pairs);
    document.getElementById("browser-page").textContent = page + 1 + " of " + pages;
    back.disabled = page === 0;
    next.disabled = page === pages - 1;
  }

  function turn(by) {
    page += by;
    show();
    list.focus({ preventScroll: true });
    list.scrollIntoView();
  }

  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("input", () => {
    page = 0;
    show();
  });
  back.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  document.getElementById("browser").hidden = false;
  document.getElementById("browser-off").hidden = true;
  show();
})();
