// The settings: a few that everyone needs in plain words, all others from the server's description of the options.

const $ = id => document.getElementById(id)

// The balance goes from 0, log10(alpha/beta) = 0.5, nearly all content, to 100, -4, all style.
const MOST = 0.5, RANGE = 4.5
const MARKS = [-1, -2, -3, -4]  // of the lecture
const toSlider = log => Math.min(100, Math.max(0, 100 * (MOST - log) / RANGE))
const toLog = slider => MOST - slider * RANGE / 100
const ratio = log => {
  const value = 10 ** log
  return value >= 0.1 ? value.toPrecision(2) : value.toExponential(1).replace(".0e", "e")
}

// What everyone needs: an option's name, what people call it, and what to choose from.
const SIMPLE = [
  {name: "style_scale", label: "Stroke size", low: "fine", high: "bold", range: [-2, 1], step: 0.1,
    read: x => Number((2 ** x).toFixed(3)), show: value => Math.log2(value), text: value => `${Number(value).toFixed(2)} ×`},
  {name: "color", label: "Keep original colors", choices: [["style", "No: the style's colors"], ["content", "Yes: the content's palette"], ["luminance", "Yes, exactly: only lightness changes"]]},
  {name: "tv", label: "Smoothness", low: "crisp", high: "smooth", range: [0, 30], step: 1, read: Number, show: Number, text: value => `${value}`},
  {name: "style_loss", label: "Style match", choices: [["nearest", "Every place painted (nearest)"], ["gram", "As in the paper (Gram)"], ["moments", "Milder (moments)"], ["wasserstein", "Bolder (Wasserstein)"]]},
  {name: "faces", label: "Faces", help: "How much faces stay as in the photo.", low: "painted", high: "kept", range: [1, 10], step: 0.5, read: Number, show: Number, text: value => Number(value) === 1 ? "as the rest" : `${value} × content weight`},
]

export class Controls {
  constructor(setup, changed) {
    this.changed = changed
    this.fields = new Map()
    const byName = new Map(setup.controls.map(control => [control.name, control]))
    this.defaultLog = Math.log10(setup.balance.alpha / setup.balance.beta)
    this._addBalance()
    for (const simple of SIMPLE) this._addSimple(simple, byName.get(simple.name))
    const panels = new Map()
    for (const control of setup.controls) {
      if (this.fields.has(control.name) || ["size", "enlarge"].includes(control.name)) continue  // beside the button
      if (!panels.has(control.panel)) {
        const title = document.createElement("h3")
        title.textContent = control.panel
        $("panels").append(title)
        const panel = document.createElement("div")
        $("panels").append(panel)
        panels.set(control.panel, panel)
      }
      this._addField(control, panels.get(control.panel))
    }
    $("reset").addEventListener("click", () => { this.fill({}); this.changed() })
  }

  // Return the settings that differ from the defaults, by name.
  read() {
    const settings = {}
    const log = toLog(Number($("balance").value))
    if (Math.abs(log - this.defaultLog) > RANGE / 200) {
      settings.alpha = 1
      settings.beta = Number((10 ** -log).toPrecision(3))
    }
    for (const [name, field] of this.fields) {
      const value = field.read()
      if (value !== field.default && !(value === "" && field.default === null)) settings[name] = value
    }
    return settings
  }

  // Show settings; what they lack gets its default.
  fill(settings) {
    const log = "beta" in settings || "alpha" in settings
      ? Math.log10((settings.alpha ?? 1) / (settings.beta ?? 10 ** -this.defaultLog)) : this.defaultLog
    $("balance").value = toSlider(Number.isNaN(log) ? this.defaultLog : log)
    this._showBalance()
    for (const [name, field] of this.fields) field.fill(name in settings ? settings[name] : field.default)
    this.markWrong(null)
  }

  // Mark a field as wrong; none with null. Returns whether there is such a field.
  markWrong(name, message = "") {
    for (const field of this.fields.values()) field.mark("")
    const field = this.fields.get(name)
    if (!field) return false
    if (field.element.closest("#advanced")) $("advanced").open = true
    field.mark(message)
    return true
  }

  // Show the first field with an invalid value and return its message; null if there is none.
  showInvalid() {
    const name = [...this.fields.keys()].find(key => !this.fields.get(key).check())
    if (!name) return null
    const {element} = this.fields.get(name)
    if (element.closest("#advanced")) $("advanced").open = true
    element.scrollIntoView({block: "center"})
    return `${element.querySelector("label").textContent}: ${element.querySelector(".wrong").textContent}`
  }

  get isValid() {
    return [...this.fields.values()].every(field => field.check())
  }

  _addBalance() {
    $("balance").value = toSlider(this.defaultLog)
    for (const log of MARKS) {
      const option = document.createElement("option")
      option.value = Math.round(toSlider(log))
      $("marks").append(option)
      const button = document.createElement("button")
      button.type = "button"
      button.textContent = `1e${log}`
      button.title = `α/β = 1e${log}, as in the lecture`
      button.addEventListener("click", () => { $("balance").value = toSlider(log); this._showBalance(); this.changed() })
      $("mark-buttons").append(button)
    }
    $("balance").addEventListener("input", () => this._showBalance())
    $("balance").addEventListener("change", () => this.changed())
    this._showBalance()
  }

  _showBalance() {
    const text = `α/β = ${ratio(toLog(Number($("balance").value)))}`
    $("balance").title = `${text}: content weight to style weight`
    $("balance").setAttribute("aria-valuetext", `${Math.round($("balance").value)} of 100, ${text}`)
    $("balance-value").textContent = Math.round($("balance").value)
  }

  _addSimple(simple, control) {
    const input = simple.choices ? document.createElement("select") : document.createElement("input")
    const output = document.createElement("output")
    if (simple.choices) {
      input.append(...simple.choices.map(([value, text]) => new Option(text, value)))
    } else {
      Object.assign(input, {type: "range", min: simple.range[0], max: simple.range[1], step: simple.step})
    }
    const wrap = addField($("simple"), {...control, help: simple.help ?? control.help}, simple.label, input, false)
    if (!simple.choices) {
      const ends = document.createElement("div")
      ends.className = "ends"
      ends.append(span(simple.low), output, span(simple.high))
      wrap.field.insertBefore(ends, wrap.wrong)
    }
    const read = simple.choices ? () => input.value : () => simple.read(Number(input.value))
    const show = () => { if (simple.text) output.textContent = simple.text(read()) }
    const fill = value => {
      const shown = simple.show ? simple.show(value) : value
      if (simple.range) input.max = Math.max(simple.range[1], shown)
      input.value = shown
      show()
    }
    input.addEventListener("input", show)
    input.addEventListener("change", () => { wrap.mark(""); this.changed() })
    fill(control.default)
    this.fields.set(control.name, {element: wrap.field, default: control.default, read, fill, mark: wrap.mark, check: () => true})
  }

  _addField(control, panel) {
    const {kind} = control
    const input = document.createElement(kind === "choice" ? "select" : "input")
    if (kind === "choice") input.append(...control.choices.map(value => new Option(value, value)))
    else input.type = {switch: "checkbox", whole: "number", number: "number", text: "text"}[kind]
    if (input.type === "number") {
      input.step = kind === "whole" ? 1 : "any"
      if (control.minimum !== null) input.min = control.minimum
      if (control.maximum !== null) input.max = control.maximum
    }
    const wrap = addField(panel, control, control.label, input, kind === "switch")
    const read = () => {
      if (kind === "switch") return input.checked
      return input.type === "number" && input.value !== "" ? Number(input.value) : input.value
    }
    const fill = value => { if (kind === "switch") input.checked = value; else input.value = value ?? "" }
    const check = () => {
      const message = input.validity.valid ? "" : input.validationMessage
      wrap.mark(message)
      return !message
    }
    input.addEventListener("change", () => { if (check()) this.changed() })
    fill(control.default)
    this.fields.set(control.name, {element: wrap.field, default: control.default, read, fill, mark: wrap.mark, check})
  }
}

function span(text) {
  const element = document.createElement("span")
  element.textContent = text
  return element
}

function addField(parent, control, text, input, isSwitch) {
  const field = document.createElement("div"), label = document.createElement("label")
  field.className = isSwitch ? "field switch" : "field"
  input.id = `option-${control.name}`
  label.htmlFor = input.id
  if (isSwitch) label.append(input, span(text))
  else label.textContent = text
  const help = document.createElement("p"), wrong = document.createElement("p")
  help.className = "help"
  help.id = `${input.id}-help`
  const range = input.type === "number" && control.minimum !== null
    ? ` (${control.maximum === null ? `at least ${control.minimum}` : `${control.minimum} to ${control.maximum}`})` : ""
  help.textContent = control.help + range
  wrong.className = "wrong"
  wrong.hidden = true
  wrong.id = `${input.id}-wrong`
  input.setAttribute("aria-describedby", `${help.id} ${wrong.id}`)
  field.append(label, ...(isSwitch ? [] : [input]), help, wrong)
  if (parent.id === "simple") { help.hidden = true; field.title = control.help }
  parent.append(field)
  const mark = message => {
    wrong.textContent = message
    wrong.hidden = !message
    input.toggleAttribute("aria-invalid", Boolean(message))
  }
  return {field, wrong, mark}
}
