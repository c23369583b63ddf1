// Masks, drawn where the image is: one color for what stays as it is, and one for each of several styles.

const $ = id => document.getElementById(id)
const LONGEST = 1024, UNDO = 20  // steps
// As in web/masks.py.
const KEEP = "#ffffff", STYLES = ["#e6194b", "#3cb44b", "#4363d8", "#ffe119"]
const NAMES = ["red", "green", "blue", "yellow"]

// Return [width, height] with at most `longest` pixels on the longer side.
export function fitSize(size, longest) {
  const scale = Math.min(1, longest / Math.max(...size))
  return size.map(side => Math.max(1, Math.round(side * scale)))
}

export class Masks {
  constructor(stage, changed) {
    this.stage = stage
    this.changed = changed
    this.canvas = $("canvas")
    this.context = this.canvas.getContext("2d", {willReadFrequently: true})
    this.isEmpty = true
    this.earlier = []  // what was drawn before each stroke
    this.color = KEEP
    this._connect()
  }

  // Begin with nothing drawn, for a content image of this size.
  reset(size) {
    [this.canvas.width, this.canvas.height] = fitSize(size, LONGEST)
    this.isEmpty = true
    this.earlier = []
    $("mask-undo").disabled = true
  }

  // Remember what is drawn, for Undo.
  _remember() {
    this.earlier = [...this.earlier.slice(1 - UNDO), this.context.getImageData(0, 0, this.canvas.width, this.canvas.height)]
    $("mask-undo").disabled = false
  }

  undo() {
    if (!this.earlier.length) return
    this.context.putImageData(this.earlier.pop(), 0, 0)
    $("mask-undo").disabled = !this.earlier.length
    this._finish()
  }

  offer(styles) {
    const brushes = [["Keep as it is", KEEP], ...(styles > 1 ? STYLES.slice(0, styles).map((color, i) => [`Style ${i + 1}`, color]) : []), ["Eraser", ""]]
    if (!brushes.some(([, color]) => color === this.color)) this.color = KEEP
    $("colors").replaceChildren(...brushes.map(([name, color]) => {
      const button = document.createElement("button")
      button.type = "button"
      button.textContent = name
      button.setAttribute("role", "radio")
      button.setAttribute("aria-checked", color === this.color)
      if (color) button.title = `drawn in ${color === KEEP ? "white" : NAMES[STYLES.indexOf(color)]}`
      button.style.setProperty("--color", color || "transparent")
      button.addEventListener("click", () => {
        this.color = color
        for (const other of $("colors").children) other.setAttribute("aria-checked", other === button)
      })
      return button
    }))
  }

  get isShown() { return !this.canvas.hidden }

  toggle(shown = !this.isShown) {
    this.canvas.hidden = $("mask-tools").hidden = !shown
    $("brush-outline").hidden = true
    $("masks-toggle").setAttribute("aria-pressed", shown)
    this.stage.element.classList.toggle("drawing", shown)
  }

  // Return what is drawn as PNG; null if nothing is.
  async blob() {
    return this.isEmpty ? null : new Promise(resolve => this.canvas.toBlob(resolve, "image/png"))
  }

  // Draw the white of an image in the color of the brush.
  async load(file) {
    const bitmap = await createImageBitmap(file), {width, height} = this.canvas
    const layer = new OffscreenCanvas(width, height), context = layer.getContext("2d")
    context.drawImage(bitmap, 0, 0, width, height)
    const data = context.getImageData(0, 0, width, height)
    const [r, g, b] = [1, 3, 5].map(i => parseInt((this.color || KEEP).slice(i, i + 2), 16))
    for (let i = 0; i < data.data.length; i += 4) {
      const light = (data.data[i] + data.data[i + 1] + data.data[i + 2]) / 3 * data.data[i + 3] / 255
      data.data.set([r, g, b, light > 127 ? 255 : 0], i)
    }
    context.putImageData(data, 0, 0)
    this._remember()
    this._composite()
    this.context.drawImage(layer, 0, 0)
    this._finish()
  }

  async restore(url) {
    const image = new Image()
    image.src = url
    await image.decode()
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height)
    this.context.globalCompositeOperation = "source-over"
    this.context.drawImage(image, 0, 0, this.canvas.width, this.canvas.height)
    this.isEmpty = false
  }

  _composite() {
    this.context.globalCompositeOperation = this.color ? "source-over" : "destination-out"
  }

  _finish() {
    const {data} = this.context.getImageData(0, 0, this.canvas.width, this.canvas.height)
    this.isEmpty = true
    for (let i = 3; i < data.length && this.isEmpty; i += 4) this.isEmpty = data[i] < 128
    this.changed()
  }

  _connect() {
    const opacity = () => { this.canvas.style.opacity = $("opacity").value / 100 }
    const width = () => $("brush").value / 1000 * Math.max(this.canvas.width, this.canvas.height)
    const size = () => { $("brush").parentElement.querySelector("output").textContent = `${$("brush").value / 10} %` }
    $("opacity").addEventListener("input", opacity)
    $("brush").addEventListener("input", size)
    opacity()
    size()
    $("masks-toggle").addEventListener("click", () => this.toggle())
    $("mask-undo").addEventListener("click", () => this.undo())
    document.addEventListener("keydown", event => {
      if (!this.isShown || !(event.ctrlKey || event.metaKey) || event.key !== "z" || event.target.closest("input[type=text], input[type=number]")) return
      event.preventDefault()
      this.undo()
    })
    $("mask-clear").addEventListener("click", () => {
      this._remember()
      this.context.clearRect(0, 0, this.canvas.width, this.canvas.height)
      this._finish()
    })
    $("mask-file").addEventListener("change", event => {
      if (event.target.files.length) this.load(event.target.files[0])
      event.target.value = ""
    })
    let last = null
    const draw = event => {
      const [x, y] = this.stage.position(event), to = [x * this.canvas.width, y * this.canvas.height]
      const context = this.context
      this._composite()
      context.strokeStyle = context.fillStyle = this.color || "#000"
      context.lineWidth = width()
      context.lineCap = context.lineJoin = "round"
      context.beginPath()
      if (last) {
        context.moveTo(...last)
        context.lineTo(...to)
        context.stroke()
      } else {
        context.arc(...to, width() / 2, 0, 7)  // a line of no length is not drawn
        context.fill()
      }
      last = to
    }
    const element = this.stage.element
    element.addEventListener("pointerdown", event => {
      if (!this.isShown || event.button || event.target.closest("button")) return
      element.setPointerCapture(event.pointerId)
      last = null
      this._remember()
      draw(event)
    })
    const outline = $("brush-outline")
    element.addEventListener("pointermove", event => {
      outline.hidden = !this.isShown
      if (!this.isShown) return
      const box = element.getBoundingClientRect(), side = width() / this.canvas.width * this.stage.size[0] * this.stage.zoom
      Object.assign(outline.style, {left: `${event.clientX - box.left}px`, top: `${event.clientY - box.top}px`, width: `${side}px`, height: `${side}px`})
      if (last && event.buttons & 1) draw(event)
    })
    element.addEventListener("pointerleave", () => { outline.hidden = true })
    element.addEventListener("pointerup", () => {
      if (!this.isShown || !last) return
      last = null
      this._finish()
    })
  }
}
