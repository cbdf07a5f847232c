/** A list of any length in a scroller, of which only what can be seen (and a little more) is in the page. */

const OVERSCAN = 600;
const ESTIMATE = 56;
/** The scroller's padding. */
const BORDER = 16;

export class VirtualList {
  /**
   * @param {HTMLElement} scroller
   * @param {{render: (item: any) => HTMLElement, signature: (item: any) => string, onScroll?: () => void, label: string}} options
   *   Items have a `key`; one is drawn anew when its signature is another.
   */
  constructor(scroller, { render, signature, onScroll, label }) {
    this.scroller = scroller;
    this.render = render;
    this.signature = signature;
    this.items = [];
    this.places = new Map();
    this.heights = new Map();
    this.offsets = new Float64Array(1);
    this.drawn = new Map();
    this.isAtEnd = true;
    this.list = document.createElement("ol");
    this.list.className = "rows";
    this.list.setAttribute("aria-label", label);
    this.space = document.createElement("div");
    this.space.className = "space";
    this.space.append(this.list);
    scroller.append(this.space);
    scroller.addEventListener("scroll", () => {
      this.isAtEnd = this.#distanceToEnd() < 48;
      this.#schedule();
      onScroll?.();
    }, { passive: true });
    this.width = 0;
    this.observer = new ResizeObserver(() => {
      if (this.width !== scroller.clientWidth) {
        this.width = scroller.clientWidth;
        this.heights.clear();
      }
      this.keepingPlace(() => undefined);
    });
    this.observer.observe(scroller);
    this.observer.observe(this.list);
  }

  destroy() {
    this.observer.disconnect();
    cancelAnimationFrame(this.frame);
  }

  /** Show these items. The one at the top of what is seen stays where it is; at the end, the end stays in sight. */
  set(items) {
    this.keepingPlace(() => {
      this.items = items;
      this.places = new Map(items.map(({ key }, index) => [key, index]));
    });
  }

  scrollToEnd() {
    this.isAtEnd = true;
    this.keepingPlace(() => undefined);
  }

  /** Bring an item into the middle; whether there is one with this key. */
  scrollTo(key) {
    const place = this.places.get(key);
    if (place === undefined) return false;
    this.isAtEnd = false;
    // Twice, since what is above is measured only when it is drawn.
    for (let pass = 0; pass < 3; pass += 1) {
      this.#measureOffsets();
      this.scroller.scrollTop = this.offsets[place] - this.scroller.clientHeight / 2 + 30;
      this.#draw();
    }
    return true;
  }

  element(key) {
    return this.drawn.get(key)?.element;
  }

  /** The first and the last item that can be seen. */
  seen() {
    const top = this.scroller.scrollTop;
    return [this.#at(top), this.#at(top + this.scroller.clientHeight - 4)];
  }

  keepingPlace(change) {
    const wasAtEnd = this.isAtEnd;
    const first = this.#at(this.scroller.scrollTop);
    const anchor = this.items[first]?.key;
    const shift = this.scroller.scrollTop - (this.offsets[first] ?? 0);
    change();
    for (let pass = 0; pass < 4; pass += 1) {
      this.#measureOffsets();
      this.#reserve();
      const place = this.places.get(anchor);
      if (wasAtEnd) this.scroller.scrollTop = this.scroller.scrollHeight;
      else if (place !== undefined) this.scroller.scrollTop = this.offsets[place] + shift;
      if (!this.#draw()) break;
    }
    if (wasAtEnd) this.scroller.scrollTop = this.scroller.scrollHeight;
    this.isAtEnd = wasAtEnd;
  }

  #schedule() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.keepingPlace(() => undefined);
    });
  }

  #distanceToEnd() {
    return this.scroller.scrollHeight - this.scroller.clientHeight - this.scroller.scrollTop;
  }

  #measureOffsets() {
    const { items } = this;
    if (this.offsets.length !== items.length + 1) this.offsets = new Float64Array(items.length + 1);
    // Few items lie at the bottom, near to where the next is written.
    let total = 0;
    for (const { key } of items) {
      total += this.heights.get(key) ?? ESTIMATE;
      if (total > this.scroller.clientHeight) break;
    }
    total = Math.max(0, this.scroller.clientHeight - BORDER - total);
    this.offsets[0] = total;
    for (let index = 0; index < items.length; index += 1) {
      total += this.heights.get(items[index].key) ?? ESTIMATE;
      this.offsets[index + 1] = total;
    }
  }

  #reserve() {
    this.space.style.height = `${this.offsets[this.items.length]}px`;
  }

  /** The item at a height. */
  #at(height) {
    let low = 0;
    let high = this.items.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.offsets[middle] <= height) low = middle;
      else high = middle - 1;
    }
    return Math.max(0, low);
  }

  /** Put what can be seen into the page, and measure it; whether that was not what was thought. */
  #draw() {
    const { items, list, drawn } = this;
    const top = this.scroller.scrollTop;
    const from = this.#at(top - OVERSCAN);
    const to = items.length ? this.#at(top + this.scroller.clientHeight + OVERSCAN) : -1;
    const kept = new Map();
    let at = list.firstElementChild;
    for (let index = from; index <= to; index += 1) {
      const { key } = items[index];
      const signature = this.signature(items[index]);
      let one = drawn.get(key);
      if (one?.signature !== signature) {
        const element = this.render(items[index]);
        if (one) {
          const hadFocus = one.element === document.activeElement;
          if (at === one.element) at = element;
          one.element.replaceWith(element);
          if (hadFocus) element.focus({ preventScroll: true });
        }
        one = { element, signature };
      }
      one.element.setAttribute("aria-setsize", String(items.length));
      one.element.setAttribute("aria-posinset", String(index + 1));
      if (one.element === at) at = at.nextElementSibling;
      else list.insertBefore(one.element, at);
      kept.set(key, one);
      drawn.delete(key);
    }
    for (const { element } of drawn.values()) {
      if (element === document.activeElement) this.scroller.focus({ preventScroll: true });
      element.remove();
    }
    this.drawn = kept;
    list.style.transform = `translateY(${this.offsets[from] ?? 0}px)`;
    let isNew = false;
    for (const [key, { element }] of kept) {
      const { height } = element.getBoundingClientRect();
      if (Math.abs((this.heights.get(key) ?? -1) - height) > 0.5) {
        this.heights.set(key, height);
        isNew = true;
      }
    }
    return isNew;
  }
}
