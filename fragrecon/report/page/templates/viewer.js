// Shows puzzles: their fragments shuffled, grouped or rebuilt, and the image of each fragment.
(() => {
  "use strict";
  const viewer = document.getElementById("viewer");
  if (!viewer) return;
  const { puzzles, solvers } = JSON.parse(viewer.querySelector("script").textContent);
  const find = (selector) => viewer.querySelector(selector);
  const [stage, whole, cell, words, images] = [".stage", ".whole", ".cell", ".words", ".images"].map(find);
  const [puzzleChoice, solverChoice, summary, letters] = [".puzzle", ".solver", ".summary", ".letters"].map(find);
  const radios = Object.fromEntries([...viewer.querySelectorAll("[name=view]")].map((input) => [input.value, input]));

  const LARGEST = 52; // largest width of a fragment, in pixels
  const CAPTION = 20; // height of the line above a rebuilt image, in pixels
  const GAP = 14; // pixels between rebuilt images

  let puzzle, solution, fragments, places;
  let wanted = "grouped"; // the selected view; not every model has all views

  // As in the figures: letters, or numbers from 1 if there are more images than letters.
  const letter = (image) =>
    image === null ? "?" : puzzle.images.length <= 26 ? String.fromCharCode(65 + image) : String(image + 1);
  const byName = (names) => [...names.keys()].sort((a, b) => (names[a] ?? Infinity) - (names[b] ?? Infinity));
  const view = () => (solution.rebuilt || wanted !== "rebuilt" ? wanted : "grouped");

  // Whether a view marks a fragment as wrong. Groups and rebuilt images are named after their matched true image.
  const isWrong = {
    shuffled: () => false,
    grouped: (i) => solution.names[solution.groups[i]] !== puzzle.sources[i],
    rebuilt: (i) =>
      nameRebuilt(i) !== puzzle.sources[i] ||
      solution.rebuilt.cells[i] !== puzzle.positions[i] ||
      solution.rebuilt.rotations[i] !== 0,
  };
  const nameRebuilt = (i) => solution.rebuilt.names[solution.rebuilt.images[i]];

  // Layouts for a given stage width: the corner of each fragment, their side, captions, and the total height.
  const layouts = {
    shuffled(width) {
      const { perLine, unit, line } = measures(width, 0);
      const corners = puzzle.sources.map((_, i) => [(i % perLine) * unit, Math.floor(i / perLine) * line]);
      return { corners, captions: [], side: unit - 2, height: Math.ceil(corners.length / perLine) * line };
    },

    grouped(width) {
      const { perLine, unit, line } = measures(width, 1);
      const corners = [];
      const captions = [];
      let row = 0;
      for (const group of byName(solution.names)) {
        const name = solution.names[group];
        const strange = (i) => (puzzle.sources[i] === name ? -1 : puzzle.sources[i]);
        const members = [...puzzle.sources.keys()].filter((i) => solution.groups[i] === group);
        members.sort((a, b) => strange(a) - strange(b));
        if (members.length) captions.push({ x: 0, y: row * line, width: unit, height: line, text: letter(name) });
        members.forEach((i, n) => {
          corners[i] = [((n % perLine) + 1) * unit, (row + Math.floor(n / perLine)) * line];
        });
        row += Math.ceil(members.length / perLine);
      }
      return { corners, captions, side: unit - 2, height: row * line };
    },

    rebuilt(width) {
      const [rows, columns] = puzzle.grid;
      const { images: into, cells, names } = solution.rebuilt;
      const { line, unit: largest } = measures(width, 0);
      const low = Math.ceil(into.length / perLine()) * line;
      let perRow = 0;
      let unit, height;
      do {
        perRow += 1;
        unit = Math.min(largest, Math.floor(((width + GAP) / perRow - GAP) / columns));
        height = Math.ceil(names.length / perRow) * (rows * unit * aspect() + CAPTION + GAP) - GAP;
      } while (height > low && perRow < names.length);
      const at = [];
      byName(names).forEach((image, n) => {
        const row = Math.floor(n / perRow);
        at[image] = [(n % perRow) * (columns * unit + GAP), row * (rows * unit * aspect() + CAPTION + GAP)];
      });
      const caption = ([x, y], image) => ({ x, y, width: columns * unit, height: CAPTION, text: letter(names[image]) });
      const corners = into.map((image, i) => [
        at[image][0] + (cells[i] % columns) * unit,
        at[image][1] + CAPTION + Math.floor(cells[i] / columns) * unit * aspect(),
      ]);
      return { corners, captions: at.map(caption), side: unit, height };
    },
  };

  const aspect = () => (puzzle.size[0] * puzzle.grid[1]) / (puzzle.grid[0] * puzzle.size[1]);
  const perLine = () => (puzzle.grid[0] * puzzle.grid[1] <= 16 ? 16 : 32);

  function measures(width, more) {
    const unit = Math.min(LARGEST, Math.floor(width / (perLine() + more)));
    return { perLine: perLine(), unit, line: unit * aspect() };
  }

  function element(name, className, text = "") {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text;
    return made;
  }

  function place(node, x, y, width, height) {
    node.style.transform = `translate(${x}px, ${y}px)`;
    node.style.width = `${width}px`;
    node.style.height = `${height}px`;
  }

  function arrange() {
    const now = view();
    const possible = solution.rebuilt ? ["shuffled", "grouped", "rebuilt"] : ["shuffled", "grouped"];
    const found = Object.fromEntries(possible.map((name) => [name, layouts[name](stage.clientWidth)]));
    stage.style.height = `${Math.max(...Object.values(found).map(({ height }) => height))}px`;
    const { corners, captions, side } = found[now];
    places = corners;
    fragments.forEach((node, i) => {
      place(node, ...corners[i], side, side * aspect());
      node.classList.toggle("wrong", isWrong[now](i));
      node.setAttribute("aria-label", describe(i).join(", "));
    });
    stage.querySelectorAll(".caption").forEach((node) => node.remove());
    for (const { x, y, width, height, text } of captions) {
      const node = stage.appendChild(element("div", "caption", text));
      place(node, x, y, width, height);
    }
    stage.dataset.view = now;
    radios[now].checked = true;
    summary.textContent = summarize(now);
  }

  function summarize(now) {
    const count = fragments.length;
    const right = [...fragments.keys()].filter((i) => !isWrong[now](i)).length;
    if (now === "shuffled") return `${count} fragments of ${puzzle.images.length} images, shuffled.`;
    if (now === "rebuilt") return `Rebuilt: ${right} of ${count} fragments are in their place.`;
    const score = solution.ari === null ? "" : ` ARI ${solution.ari.toFixed(3)}.`;
    return `Grouped by KMeans: ${right} of ${count} fragments are in the group of their image.${score}`;
  }

  function describe(i) {
    const columns = puzzle.grid[1];
    const [row, column] = [Math.floor(puzzle.positions[i] / columns) + 1, (puzzle.positions[i] % columns) + 1];
    const origin = `image ${letter(puzzle.sources[i])}, row ${row}, column ${column}`;
    if (!isWrong[view()](i)) return [origin];
    const found = view() === "grouped" ? solution.names[solution.groups[i]] : nameRebuilt(i);
    if (found !== puzzle.sources[i]) return [origin, `assigned to image ${letter(found)}`];
    return [origin, "in the wrong place"];
  }

  // Shows an image and highlights its fragments; if a fragment is pointed at, shows its cell.
  function point(image, i = null) {
    const [rows, columns] = puzzle.grid;
    whole.style.backgroundImage = `var(--image-${image})`;
    whole.dataset.image = image;
    cell.hidden = i === null;
    if (i !== null) {
      const position = puzzle.positions[i];
      cell.style.left = `${((position % columns) * 100) / columns}%`;
      cell.style.top = `${(Math.floor(position / columns) * 100) / rows}%`;
    }
    words.replaceChildren(...(i === null ? [`image ${letter(image)}`] : describe(i)).map((text) => element("span", "", text)));
    stage.classList.add("pointing");
    fragments.forEach((node, other) => {
      node.classList.toggle("kin", puzzle.sources[other] === image);
      node.classList.toggle("here", other === i);
    });
    [...images.children].forEach((node, other) => node.classList.toggle("kin", other === image));
  }

  function forget() {
    stage.classList.remove("pointing");
    for (const node of viewer.querySelectorAll(".kin")) node.classList.remove("kin", "here");
  }

  // The nearest fragment in a direction; those straight ahead are preferred.
  function neighbour(i, [right, down]) {
    const cost = (j) => {
      const [x, y] = [places[j][0] - places[i][0], places[j][1] - places[i][1]];
      const ahead = x * right + y * down;
      return ahead > 0 ? ahead + 4 * Math.abs(x * down + y * right) : Infinity;
    };
    const best = [...places.keys()].reduce((a, b) => (cost(b) < cost(a) ? b : a));
    return cost(best) < Infinity ? best : i;
  }

  function showPuzzle() {
    const number = Number(puzzleChoice.value);
    puzzle = puzzles[number];
    const [rows, columns] = puzzle.grid;
    puzzle.images.forEach((image, n) => viewer.style.setProperty(`--image-${n}`, `url("${image}")`));
    viewer.style.setProperty("--aspect", puzzle.size[1] / puzzle.size[0]);
    fragments = puzzle.sources.map((image, i) => {
      const node = element("div", "fragment");
      const [row, column] = [Math.floor(puzzle.positions[i] / columns), puzzle.positions[i] % columns];
      node.style.backgroundImage = `var(--image-${image})`;
      node.style.backgroundSize = `${columns * 100}% ${rows * 100}%`;
      node.style.backgroundPosition = `${(column * 100) / Math.max(1, columns - 1)}% ${(row * 100) / Math.max(1, rows - 1)}%`;
      Object.assign(node.dataset, { fragment: i, letter: letter(image) });
      node.setAttribute("role", "img");
      node.tabIndex = i ? -1 : 0;
      return node;
    });
    stage.replaceChildren(...fragments);
    images.replaceChildren(
      ...puzzle.images.map((_, image) => {
        const node = element("button", "image");
        node.type = "button";
        node.style.backgroundImage = `var(--image-${image})`;
        node.dataset.letter = letter(image);
        node.setAttribute("aria-label", `image ${letter(image)}`);
        return node;
      }),
    );
    cell.style.width = `${100 / columns}%`;
    cell.style.height = `${100 / rows}%`;
    const before = solverChoice.value;
    const able = solvers.flatMap(({ name, solutions }, n) => (number in solutions ? [new Option(name, n)] : []));
    solverChoice.replaceChildren(...able);
    if (able.some(({ value }) => value === before)) solverChoice.value = before;
    showSolution(true);
    point(0);
    forget();
    words.textContent = "Point at a fragment to see its image and position.";
  }

  function showSolution(still = false) {
    solution = solvers[Number(solverChoice.value)].solutions[Number(puzzleChoice.value)];
    radios.rebuilt.disabled = !solution.rebuilt;
    radios.rebuilt.parentElement.title = solution.rebuilt ? "" : "this model does not rebuild images";
    stage.classList.toggle("still", still);
    arrange();
    if (still) requestAnimationFrame(() => stage.classList.remove("still"));
  }

  const pointed = (event) => {
    const node = event.target.closest?.(".fragment, .image");
    if (!node) forget();
    else if (node.matches(".fragment")) point(puzzle.sources[node.dataset.fragment], Number(node.dataset.fragment));
    else point([...images.children].indexOf(node));
  };
  for (const area of [stage, images]) {
    area.addEventListener("pointerover", pointed);
    area.addEventListener("focusin", pointed);
    area.addEventListener("focusout", forget);
    area.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && forget());
  }
  stage.addEventListener("keydown", (event) => {
    const arrows = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
    const here = event.target.closest(".fragment");
    if (!here || !(event.key in arrows)) return;
    event.preventDefault();
    const next = fragments[neighbour(Number(here.dataset.fragment), arrows[event.key])];
    here.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  for (const [name, radio] of Object.entries(radios)) {
    radio.addEventListener("change", () => {
      wanted = name;
      arrange();
    });
  }
  letters.addEventListener("change", () => stage.classList.toggle("lettered", letters.checked));
  puzzleChoice.addEventListener("change", showPuzzle);
  solverChoice.addEventListener("change", () => showSolution());
  puzzleChoice.replaceChildren(...puzzles.map((_, n) => new Option(`${n + 1} of ${puzzles.length}`, n)));
  showPuzzle();
  let width = stage.clientWidth;
  new ResizeObserver(() => {
    if (stage.clientWidth !== width) arrange();
    width = stage.clientWidth;
  }).observe(stage);
})();
