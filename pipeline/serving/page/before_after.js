// <before-after before="URL" after="URL" width="W" height="H" name="FILE">: two pictures of one scene under a divider.
//
// The enlargement (W x H) is shown with one pixel of it on one pixel of the screen, or fitted into the frame; the
// original is stretched to the same place by the browser. What people chose stays from one picture to the next.
const chosen = { divider: 0.5, isFitted: false };

class BeforeAfter extends HTMLElement {
  // The page writes a new answer over the attributes of the one before.
  static observedAttributes = ["before", "after", "width", "height", "name"];

  connectedCallback() {
    if (!this.shadowRoot) this.attachShadow({ mode: "open" }).innerHTML = TEMPLATE;
    this.part$ = (name) => this.shadowRoot.querySelector(`[part="${name}"]`);
    this.part$("exact").onclick = () => this.zoom(false);
    this.part$("fitted").onclick = () => this.zoom(true);
    this.part$("view").onscroll = () => this.draw();
    this.part$("divider").onkeydown = (event) => this.press(event);
    drag(this.part$("divider"), (event) => this.slide(event.clientX));
    pan(this.part$("view"));
    this.resized = new ResizeObserver(() => this.zoom(chosen.isFitted));
    this.resized.observe(this.part$("frame"));
    this.show();
  }

  attributeChangedCallback() {
    if (!this.resized || this.isChanging) return;
    this.isChanging = true; // all attributes of one answer change together
    queueMicrotask(() => {
      this.isChanging = false;
      if (this.isConnected) this.show();
    });
  }

  show() {
    this.size = { width: Number(this.getAttribute("width")), height: Number(this.getAttribute("height")) };
    this.part$("before").src = this.getAttribute("before");
    this.part$("after").src = this.getAttribute("after");
    this.part$("download").href = this.getAttribute("after");
    this.part$("download").download = this.getAttribute("name");
    this.zoom(chosen.isFitted);
    const view = this.part$("view");
    view.scrollTo((view.scrollWidth - view.clientWidth) / 2, (view.scrollHeight - view.clientHeight) / 2);
  }

  disconnectedCallback() {
    this.resized.disconnect();
  }

  zoom(isFitted) {
    chosen.isFitted = isFitted;
    const view = this.part$("view");
    const exact = 1 / window.devicePixelRatio;
    const fitting = Math.min(this.part$("frame").clientWidth / this.size.width, maxHeight() / this.size.height, exact);
    const factor = isFitted ? fitting : exact;
    const stage = this.part$("stage");
    stage.style.width = `${this.size.width * factor}px`;
    stage.style.height = `${this.size.height * factor}px`;
    view.style.maxHeight = `${maxHeight()}px`;
    this.part$("exact").setAttribute("aria-pressed", !isFitted);
    this.part$("fitted").setAttribute("aria-pressed", isFitted);
    this.draw();
  }

  draw() {
    const [view, stage, divider] = [this.part$("view"), this.part$("stage"), this.part$("divider")];
    const x = chosen.divider * view.clientWidth;
    const inside = Math.max(0, Math.min(stage.offsetWidth, x + view.scrollLeft - stage.offsetLeft));
    this.part$("before").style.clipPath = `inset(0 ${stage.offsetWidth - inside}px 0 0)`;
    divider.style.left = `${x}px`;
    divider.style.height = `${view.clientHeight}px`;
    divider.setAttribute("aria-valuenow", Math.round(100 * chosen.divider));
  }

  slide(clientX) {
    const view = this.part$("view");
    this.divide((clientX - view.getBoundingClientRect().left) / view.clientWidth);
  }

  divide(share) {
    chosen.divider = Math.max(0, Math.min(1, share));
    this.draw();
  }

  press(event) {
    const steps = { ArrowLeft: -0.02, ArrowDown: -0.02, ArrowRight: 0.02, ArrowUp: 0.02, PageDown: -0.1, PageUp: 0.1 };
    const ends = { Home: 0, End: 1 };
    if (event.key in steps) this.divide(chosen.divider + steps[event.key]);
    else if (event.key in ends) this.divide(ends[event.key]);
    else return;
    event.preventDefault();
  }
}

const maxHeight = () => Math.max(240, Math.round(window.innerHeight * 0.72));

function drag(element, moved) {
  element.onpointerdown = (event) => {
    element.setPointerCapture(event.pointerId);
    element.onpointermove = moved;
    event.preventDefault();
    element.focus();
  };
  element.onpointerup = element.onpointercancel = () => (element.onpointermove = null);
}

// With a mouse the picture is pulled; fingers scroll it anyway.
function pan(view) {
  view.onpointerdown = (event) => {
    if (event.pointerType !== "mouse" || event.button !== 0) return;
    const from = { x: event.clientX + view.scrollLeft, y: event.clientY + view.scrollTop };
    view.setPointerCapture(event.pointerId);
    view.onpointermove = (to) => view.scrollTo(from.x - to.clientX, from.y - to.clientY);
  };
  view.onpointerup = view.onpointercancel = () => (view.onpointermove = null);
}

const TEMPLATE = `
<style>
  :host { display: block; font: inherit; color: inherit; }
  .bar { display: flex; flex-wrap: wrap; gap: 0.5rem; align-items: center; margin-bottom: 0.6rem; }
  .bar > span { margin-right: auto; display: flex; }
  button, a { font: inherit; font-weight: 600; cursor: pointer; padding: 0.5rem 0.9rem; color: inherit;
    border: 1px solid #8887; background: transparent; text-decoration: none; line-height: 1.2; }
  button:first-child { border-radius: 0.5rem 0 0 0.5rem; border-right: 0; }
  button:last-child { border-radius: 0 0.5rem 0.5rem 0; }
  button[aria-pressed="true"] { background: #0f766e; border-color: #0f766e; color: white; }
  a { border-radius: 0.5rem; background: #0f766e; border-color: #0f766e; color: white; }
  :focus-visible { outline: 3px solid #f59e0b; outline-offset: 2px; }
  .frame { position: relative; border-radius: 0.6rem; overflow: hidden; background: #8882; }
  .view { overflow: auto; cursor: grab; }
  .view:active { cursor: grabbing; }
  .view:focus-visible { outline-offset: -3px; }
  .stage { position: relative; margin: 0 auto; }
  img { position: absolute; inset: 0; width: 100%; height: 100%; user-select: none; -webkit-user-drag: none; }
  .label { position: absolute; top: 0.6rem; padding: 0.15rem 0.6rem; border-radius: 1rem; font-size: 0.8rem;
    background: #000a; color: white; pointer-events: none; }
  .divider { position: absolute; top: 0; width: 44px; margin-left: -22px; cursor: ew-resize; touch-action: none; }
  .divider::before { content: ""; position: absolute; left: 21px; width: 2px; top: 0; bottom: 0; background: white;
    box-shadow: 0 0 3px #000c; }
  .divider::after { content: "\\2039\\2009\\203A"; position: absolute; left: 4px; top: calc(50% - 18px); width: 36px;
    height: 36px; line-height: 33px; text-align: center; font-size: 1.3rem; border-radius: 50%; color: #111;
    background: white; box-shadow: 0 1px 4px #000a; }
</style>
<div class="bar">
  <span role="group" aria-label="Zoom">
    <button part="exact" title="One pixel of the picture on one pixel of the screen">1:1</button>
    <button part="fitted" title="The whole picture">Fit</button>
  </span>
  <a part="download">Download PNG</a>
</div>
<div class="frame" part="frame">
  <div class="view" part="view" tabindex="0" role="group" aria-label="Picture; arrow keys move it">
    <div class="stage" part="stage">
      <img part="after" alt="Enlarged picture" draggable="false" />
      <img part="before" alt="Original, stretched" draggable="false" />
    </div>
  </div>
  <span class="label" style="left: 0.6rem">before</span>
  <span class="label" style="right: 0.6rem">after</span>
  <div class="divider" part="divider" role="slider" tabindex="0" aria-orientation="horizontal"
    aria-label="Divider between before and after" aria-valuemin="0" aria-valuemax="100" aria-valuenow="50"></div>
</div>`;

customElements.define("before-after", BeforeAfter);
