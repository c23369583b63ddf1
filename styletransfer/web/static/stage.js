// The image in the middle: zoom, pan, and two images on the same spot or side by side.

const $ = id => document.getElementById(id)
const LARGEST_ZOOM = 16

export class Stage {
  constructor() {
    this.element = $("stage")
    this.panes = [$("before"), $("after")]
    this.images = this.panes.map(pane => pane.querySelector("img"))
    this.canvas = $("canvas")
    this.split = $("split")
    this.size = null          // width and height that the images are shown in, at 100 %
    this.zoom = this.x = this.y = 0
    this.isFitted = true
    this.isDrawing = () => false
    this._connect()
  }

  // Show an image in [width, height]; the view stays as it is while these do.
  show(url, size, before) {
    // The sides of different scales are rounded.
    const changed = !this.size || Math.abs(this.size[0] / this.size[1] * size[1] / size[0] - 1) > 0.05
    const scale = changed ? 1 : this.size[0] / size[0]
    this.size = size
    this.images[1].src = url
    if (before && this.images[0].src !== new URL(before, location).href) this.images[0].src = before
    for (const image of [...this.images, this.canvas]) {
      image.style.width = `${size[0]}px`
      image.style.height = `${size[1]}px`
    }
    this.zoom *= scale
    this.element.classList.remove("empty")
    $("welcome").hidden = true
    for (const id of ["split", "fit", "actual"]) $(id).disabled = false
    if (changed || this.isFitted) this.fit()
    else this._place()
    this._clip()
  }

  clear(message) {
    this.size = null
    for (const image of this.images) image.removeAttribute("src")
    this.element.classList.add("empty")
    $("welcome").textContent = message
    $("welcome").hidden = false
    for (const id of ["split", "fit", "actual"]) $(id).disabled = true
    this.split.value = 0
    this._clip()
  }

  get isSide() { return this.element.classList.contains("side") }

  // Show the images next to each other, with a label each, or on the same spot.
  sideBySide(labels) {
    this.element.classList.toggle("side", Boolean(labels))
    for (const [i, id] of ["label-before", "label-after"].entries()) {
      $(id).hidden = !labels
      $(id).textContent = labels ? labels[i] : ""
    }
    this.fit()
    this._clip()
  }

  fit() {
    if (!this.size) return
    const [width, height] = this._room()
    this.isFitted = true
    this.zoom = Math.min(width / this.size[0], height / this.size[1])
    this.x = (width - this.zoom * this.size[0]) / 2
    this.y = (height - this.zoom * this.size[1]) / 2
    this._place()
  }

  // One pixel of the image on one of the screen.
  actual() {
    const [width, height] = this._room()
    this.zoomTo(1 / devicePixelRatio, width / 2, height / 2)
  }

  zoomTo(zoom, x, y) {
    if (!this.size) return
    const [width, height] = this._room()
    const least = Math.min(1 / devicePixelRatio, width / this.size[0], height / this.size[1])
    const factor = Math.min(Math.max(zoom, least), LARGEST_ZOOM) / this.zoom
    this.isFitted = false
    this.zoom *= factor
    this._pan(x - factor * (x - this.x), y - factor * (y - this.y))
  }

  // Move the image; what is smaller than the stage is centered, what is larger covers it.
  _pan(x, y) {
    const [width, height] = this._room()
    const keep = (position, room, side) => side <= room ? (room - side) / 2 : Math.min(0, Math.max(room - side, position))
    this.x = keep(x, width, this.zoom * this.size[0])
    this.y = keep(y, height, this.zoom * this.size[1])
    this._place()
  }

  // Return the position in the image, 0…1, of a pointer event.
  position(event) {
    const box = this.element.getBoundingClientRect()
    return [(event.clientX - box.left - this.x) / this.zoom / this.size[0],
            (event.clientY - box.top - this.y) / this.zoom / this.size[1]]
  }

  toggle() {
    this.split.value = this.split.value > 50 ? 0 : 100
    this._clip()
  }

  move(percent) {
    this.split.value = Number(this.split.value) + percent
    this._clip()
  }

  _room() {
    return [this.element.clientWidth / (this.isSide ? 2 : 1), this.element.clientHeight]
  }

  _place() {
    for (const image of [...this.images, this.canvas]) {
      image.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.zoom})`
      image.style.imageRendering = !this.isFitted && this.zoom * devicePixelRatio > 3 ? "pixelated" : "auto"
    }
    this.element.classList.toggle("zoomed", !this.isFitted)
    $("zoom").textContent = `${Math.round(100 * this.zoom * devicePixelRatio)} %`
    $("actual").setAttribute("aria-pressed", Math.abs(this.zoom * devicePixelRatio - 1) < 1e-3)
    this._clip()
  }

  _clip() {
    const shown = this.size && !this.isSide
    const percent = shown ? Number(this.split.value) : 0
    const left = shown ? this.x : 0, width = shown ? this.zoom * this.size[0] : 0
    const edge = left + width * percent / 100
    this.panes[1].style.clipPath = percent ? `inset(0 0 0 ${Math.max(0, edge)}px)` : ""
    // Beside the result, nothing of the image before it must be seen.
    this.panes[0].style.visibility = percent || this.isSide ? "" : "hidden"
    $("handle").hidden = !shown || percent === 0 || percent === 100
    if (!shown) return
    $("handle").style.left = `${edge}px`
    $("handle").style.top = `${Math.max(0, this.y)}px`
    $("handle").style.height = `${Math.min(this._room()[1], this.zoom * this.size[1])}px`
  }

  _connect() {
    const pointers = new Map()
    let last = null
    const from = event => {
      const box = this.element.getBoundingClientRect()
      return [event.clientX - box.left, event.clientY - box.top]
    }
    const spread = () => {
      const [[ax, ay], [bx, by]] = [...pointers.values()]
      return [(ax + bx) / 2, (ay + by) / 2, Math.hypot(ax - bx, ay - by)]
    }
    this.element.addEventListener("wheel", event => {
      if (!this.size) return
      event.preventDefault()
      this.zoomTo(this.zoom * Math.exp(-event.deltaY / (event.deltaMode ? 20 : 400)), ...from(event))
    }, {passive: false})
    this.element.addEventListener("dblclick", event => {
      if (!this.size || this.isDrawing()) return
      if (this.isFitted) this.zoomTo(1 / devicePixelRatio, ...from(event))
      else this.fit()
    })
    this.element.addEventListener("pointerdown", event => {
      if (!this.size || this.isDrawing() || event.target.closest("button, video")) return
      pointers.set(event.pointerId, from(event))
      this.element.setPointerCapture(event.pointerId)
      this.dragsHandle = event.target === $("handle")
      this.element.classList.add("moving")
      last = pointers.size === 2 ? spread() : null
    })
    this.element.addEventListener("pointermove", event => {
      if (!pointers.has(event.pointerId)) return
      const [oldX, oldY] = pointers.get(event.pointerId), [x, y] = from(event)
      pointers.set(event.pointerId, [x, y])
      if (this.dragsHandle) {
        this.split.value = 100 * (x - this.x) / this.zoom / this.size[0]
        this._clip()
      } else if (pointers.size === 2) {
        const now = spread()
        if (last) this.zoomTo(this.zoom * now[2] / last[2], now[0], now[1])
        last = now
      } else {
        if (!this.isFitted) this._pan(this.x + x - oldX, this.y + y - oldY)
      }
    })
    for (const name of ["pointerup", "pointercancel"]) {
      this.element.addEventListener(name, event => {
        pointers.delete(event.pointerId)
        last = null
        if (!pointers.size) this.element.classList.remove("moving")
      })
    }
    this.split.addEventListener("input", () => this._clip())
    $("fit").addEventListener("click", () => this.fit())
    $("actual").addEventListener("click", () => this.actual())
    new ResizeObserver(() => this.isFitted ? this.fit() : this._clip()).observe(this.element)
    document.addEventListener("keydown", event => {
      const busy = event.target.closest("input:not([type=range]), select, textarea, button, a, summary, video, label")
      if (!this.size || busy || event.ctrlKey || event.metaKey || event.altKey) return
      if (event.key === " ") { event.preventDefault(); this.toggle() }
      if (event.target.closest("input")) return  // a slider moves by itself
      if (event.key === "ArrowLeft") this.move(-2)
      else if (event.key === "ArrowRight") this.move(2)
      else if (event.key === "+") this.zoomTo(this.zoom * 1.25, ...this._room().map(side => side / 2))
      else if (event.key === "-") this.zoomTo(this.zoom / 1.25, ...this._room().map(side => side / 2))
      else if (event.key === "0") this.fit()
      else if (event.key === "1") this.actual()
    })
  }
}
