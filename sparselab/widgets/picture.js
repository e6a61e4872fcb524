// A picture that answers: what lies under the pointer or the keyboard's focus is said, a click chooses it,
// and a box that is drawn zooms. Python draws, and hands over where things are; nothing is loaded from elsewhere.

const FARTHEST_CLICK = 6; // pixels that a pointer may move and still click
const DIRECTIONS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const middle = (area) => [area.left + area.width / 2, area.top + area.height / 2];

/** The area at a place: the nearest circle that reaches it, else the smallest box around it; -1 for none. */
export function areaAt(areas, x, y) {
  let best = -1;
  let least = Infinity;
  areas.forEach((area, number) => {
    const away = Math.hypot(area.left - x, area.top - y);
    const inside =
      x >= area.left && x < area.left + area.width && y >= area.top && y < area.top + area.height;
    const rank = area.radius ? (away <= area.radius ? away : Infinity) : inside ? 1e6 + area.width * area.height : Infinity;
    if (rank < least) [best, least] = [number, rank];
  });
  return best;
}

/** The nearest area in a direction; things in one place follow each other; the same one where there is none. */
export function nextArea(areas, from, [right, down]) {
  const [x, y] = middle(areas[from]);
  let best = from;
  let least = Infinity;
  areas.forEach((area, number) => {
    const [dx, dy] = [middle(area)[0] - x, middle(area)[1] - y];
    const along = dx * right + dy * down;
    const across = Math.abs(dx * down) + Math.abs(dy * right);
    const here = dx === 0 && dy === 0;
    if (here ? (number - from) * (right + down) <= 0 : along <= 0.01) return;
    const rank = here ? Math.abs(number - from) * 1e-6 : along + 2 * across;
    if (rank < least) [best, least] = [number, rank];
  });
  return best;
}

function element(name, className, parent) {
  const made = document.createElement(name);
  made.className = className;
  parent.append(made);
  return made;
}

class View {
  constructor(model, el) {
    Object.assign(this, { model, el, areas: [], at: -1, start: null, address: "" });
    this.frame = element("div", "sparselab-frame", el);
    this.image = element("img", "", this.frame);
    this.image.draggable = false;
    this.image.decoding = "sync"; // a picture that comes again and again is seen each time
    this.ring = element("div", "sparselab-ring", this.frame);
    this.brush = element("div", "sparselab-brush", this.frame);
    this.brush.hidden = true;
    this.tip = element("div", "sparselab-tip", this.frame);
    this.tip.setAttribute("role", "status");
    this.frame.dataset.lmSuppressShortcuts = "true"; // JupyterLab's own arrows and Enter leave the picture
    this.listen();
    this.draw();
  }

  listen() {
    const events = {
      pointermove: (event) => this.moved(event),
      pointerdown: (event) => this.pressed(event),
      pointerup: (event) => this.released(event),
      pointerleave: () => this.start || this.point(-1),
      dblclick: () => this.zoomOut(),
      keydown: (event) => this.typed(event),
      focus: () => this.frame.matches(":focus-visible") && this.point(this.at < 0 ? this.first() : this.at),
      blur: () => this.point(-1),
    };
    for (const [name, heard] of Object.entries(events)) this.frame.addEventListener(name, heard);
    this.changed = () => this.draw();
    this.model.on("change:shown", this.changed);
  }

  close() {
    this.model.off("change:shown", this.changed);
    URL.revokeObjectURL(this.address);
  }

  draw() {
    const shown = this.model.get("shown");
    const kept = this.areas[this.at]?.key;
    this.areas = shown.areas ?? [];
    this.el.hidden = this.frame.hidden = !shown.png;
    if (!shown.png) return this.point(-1);
    const before = this.address;
    this.image.onload = () => URL.revokeObjectURL(before); // until then it is what is seen
    this.address = URL.createObjectURL(new Blob([shown.png], { type: "image/png" }));
    Object.assign(this.image, { src: this.address, alt: shown.text, width: shown.width, height: shown.height });
    this.el.style.setProperty("--wide", `${shown.width}px`);
    this.frame.classList.toggle("sparselab-chooses", shown.chooses);
    this.describe(shown);
    this.point(kept === undefined ? -1 : this.areas.findIndex((area) => area.key === kept));
    this.askForPixels();
  }

  describe(shown) {
    if (!this.areas.length && !shown.zoom) return this.frame.removeAttribute("tabindex");
    this.frame.tabIndex = 0;
    this.frame.setAttribute("role", "group");
    const keys = ["arrows: from place to place", shown.chooses && "Enter: choose", shown.zoomed && "Escape: zoom out"];
    this.frame.setAttribute("aria-label", `${shown.text} (${keys.filter(Boolean).join(", ")})`);
  }

  /** Pictures are drawn once more where the screen has more pixels than they were drawn for. */
  askForPixels() {
    const ratio = Math.min(3, Math.max(1, window.devicePixelRatio));
    if (ratio === this.model.get("ratio")) return;
    this.model.set("ratio", ratio);
    this.model.save_changes();
  }

  first() {
    const { chosen } = this.model.get("shown");
    const place = this.areas.findIndex((area) => area.key === chosen);
    return place < 0 && this.areas.length ? 0 : place;
  }

  /** Of what is seen to the picture's own pixels. (The width of an image element is that of what is seen.) */
  get scale() {
    return this.image.clientWidth / this.model.get("shown").width || 1;
  }

  /** Where a pointer is, in the picture's own pixels. */
  place(event) {
    const { left, top } = this.image.getBoundingClientRect();
    return [(event.clientX - left) / this.scale, (event.clientY - top) / this.scale];
  }

  /** Say what the area with this number is, and ring it. */
  point(number) {
    this.at = number;
    const area = this.areas[number];
    this.tip.textContent = area ? area.text : "";
    this.ring.hidden = !area;
    if (!area) return;
    const [left, top] = [area.left - area.radius, area.top - area.radius];
    const [width, height] = area.radius ? [2 * area.radius, 2 * area.radius] : [area.width, area.height];
    this.lay(this.ring, left, top, width, height);
    this.ring.classList.toggle("sparselab-round", area.radius > 0);
    this.layTip(left, top, width, height);
  }

  lay(part, left, top, width, height) {
    const pixels = { left, top, width, height };
    for (const [side, length] of Object.entries(pixels)) part.style[side] = `${length * this.scale}px`;
  }

  /** The tip beside what it is about, inside of the picture. */
  layTip(left, top, width, height) {
    const scale = this.scale;
    const room = [this.image.clientWidth - this.tip.offsetWidth, this.image.clientHeight - this.tip.offsetHeight];
    const right = (left + width) * scale + 6;
    const x = right <= room[0] ? right : left * scale - 6 - this.tip.offsetWidth;
    const y = height * scale > this.image.clientHeight / 2 ? top * scale : (top + height) * scale + 4;
    this.tip.style.left = `${Math.max(0, Math.min(room[0], x))}px`;
    this.tip.style.top = `${Math.max(0, y <= room[1] ? y : top * scale - 4 - this.tip.offsetHeight)}px`;
  }

  moved(event) {
    const at = this.place(event);
    if (!this.start) return this.point(areaAt(this.areas, ...at));
    const box = this.box(at);
    this.brush.hidden = !this.drags(box);
    if (this.drags(box)) {
      this.point(-1);
      this.lay(this.brush, box[0], box[1], box[2] - box[0], box[3] - box[1]);
    }
  }

  pressed(event) {
    if (event.button !== 0) return;
    this.start = this.place(event);
    this.frame.setPointerCapture(event.pointerId);
  }

  released(event) {
    if (!this.start) return;
    const at = this.place(event);
    const box = this.box(at);
    const drawn = this.drags(box);
    this.start = null;
    this.brush.hidden = true;
    if (drawn) this.model.send({ zoom: box });
    else this.choose(areaAt(this.areas, ...at));
  }

  box([x, y]) {
    const [left, top] = this.start;
    return [Math.min(left, x), Math.min(top, y), Math.max(left, x), Math.max(top, y)];
  }

  drags([left, top, right, bottom]) {
    return Boolean(this.model.get("shown").zoom) && Math.max(right - left, bottom - top) > FARTHEST_CLICK;
  }

  choose(number) {
    const { chooses } = this.model.get("shown");
    if (chooses && this.areas[number]) this.model.send({ choose: this.areas[number].key });
  }

  zoomOut() {
    if (this.model.get("shown").zoomed) this.model.send({ zoom: null });
  }

  typed(event) {
    const ends = { Home: 0, End: this.areas.length - 1 };
    const from = this.at < 0 ? this.first() : this.at;
    if (event.key === "Escape") {
      this.zoomOut();
      this.point(-1);
    } else if (from < 0) return;
    else if (event.key in DIRECTIONS) this.point(this.at < 0 ? from : nextArea(this.areas, from, DIRECTIONS[event.key]));
    else if (event.key in ends) this.point(ends[event.key]);
    else if (event.key === "Enter" || event.key === " ") this.choose(this.at);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

function render({ model, el }) {
  const view = new View(model, el);
  return () => view.close();
}

export default { render };
