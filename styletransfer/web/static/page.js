// The page: what was chosen, the jobs that are made of it, and what is shown.

import {Stage} from "./stage.js"
import {Masks, fitSize} from "./masks.js"
import {Controls} from "./controls.js"

const $ = id => document.getElementById(id)
const WELCOME = "Choose a content image and a style: the first preview appears within seconds."
const DEFAULT_SIZE = 1024
const WAIT = 150  // ms without another change before a preview starts

const state = {
  content: null, styles: [],     // what was chosen, as the server describes it
  masks: null,                   // the name of the uploaded drawing
  jobs: new Map(),               // by id, in order
  shown: null,                   // the id of the job whose image is shown
  variations: [],                // ids
  isComparing: false,            // the next click in the history chooses what to compare with
  compared: null,                // the id of the job that the shown one is compared with
  pinned: null,                  // the id of the job that was brought back, whatever else is made
}
let tab, setup, controls, stage, masks, timer

// --- the server ---

async function call(path, body) {
  const isData = body instanceof Blob
  const response = await fetch(path, body === undefined ? {} : {
    method: "POST",
    headers: {"X-Styletransfer": "1", ...(isData ? {} : {"Content-Type": "application/json"})},
    body: isData ? body : JSON.stringify(body),
  })
  const answer = await response.json().catch(() => ({error: `the server answered ${response.status}`}))
  if (response.ok) return answer
  throw Object.assign(new Error(answer.error), answer)
}

function report(error) {
  const message = error instanceof TypeError ? "The server does not answer: is it still running?" : error.message
  if (error.field) controls?.markWrong(error.field, message)
  $("error").textContent = message
  $("error").hidden = false
}

function clearErrors() {
  $("error").hidden = $("note").hidden = true
  $("error").textContent = ""
  controls.markWrong(null)
}

// --- images to choose ---

const thumbnail = (source, size = 256) => `/api/sources/${source.id}?size=${size}`

async function upload(file) {
  if (file.size > setup.file_limit) throw new Error(`${file.name} is larger than ${Math.round(setup.file_limit / 1e6)} MB`)
  return call(`/api/tabs/${tab}/files/${encodeURIComponent(file.name || "image.png")}`, file)
}

async function choose(where, files) {
  clearErrors()
  $(where).setAttribute("aria-busy", true)
  try {
    const sources = await Promise.all([...files].map(upload))
    if (where === "content" && sources[0].restored) restore(sources[0])
    else if (where === "content") setContent(sources[0])
    else setStyles(sources)
  } catch (error) {
    report(error)
  } finally {
    $(where).removeAttribute("aria-busy")
  }
}

function setContent(source) {
  state.content = source
  state.masks = null
  masks.reset(source.size)
  masks.toggle(false)
  drawChosen("content", [source])
  offerSizes()
  if (Object.keys(source.settings).length) controls.fill(source.settings)
  restart()
  stage.show(thumbnail(source, 1024), fitSize(source.size, 1024), thumbnail(source, 1024))  // until the first preview
}

// Bring back the inputs, settings and masks of an image that was made here.
function restore({restored, settings}) {
  Object.assign(state, {content: restored.content, styles: restored.styles, masks: restored.masks})
  controls.fill(settings)
  showInputs(settings)
  restart()
}

// Show what was chosen, and the masks.
function showInputs(settings) {
  offerSizes(settings)
  drawChosen("content", [state.content])
  drawChosen("styles", state.styles)
  masks.offer(state.styles.length)
  masks.reset(state.content.size)
  if (state.masks) masks.restore(thumbnail({id: state.masks}, 1024)).catch(report)
}

function setStyles(sources) {
  state.styles = sources
  masks.offer(sources.length)
  drawChosen("styles", sources)
  restart()
}

function drawChosen(where, sources) {
  const label = $(where).querySelector("label")
  label.classList.toggle("several", sources.length > 1)
  label.replaceChildren(...sources.map(source => {
    const image = new Image()
    image.src = thumbnail(source)
    image.alt = source.name
    return image
  }))
}

function addGallery(where, sources, choose) {
  for (const source of sources) {
    const button = document.createElement("button"), image = new Image()
    image.src = thumbnail(source, 160)
    image.alt = source.name.replace(/\.\w+$/, "")
    image.loading = "lazy"
    button.type = "button"
    button.title = image.alt
    button.append(image)
    button.addEventListener("click", () => choose(source))
    $(where).append(button)
  }
  $(where).hidden = !sources.length
}

function connectInput(where) {
  const input = $(`${where}-file`)
  input.addEventListener("change", () => {
    if (input.files.length) choose(where, input.files)
    input.value = ""
  })
}

// Choose what is dropped on an element.
function connectDrop(drop, where) {
  drop.addEventListener("dragover", event => { event.preventDefault(); drop.classList.add("over") })
  drop.addEventListener("dragleave", () => drop.classList.remove("over"))
  drop.addEventListener("drop", event => {
    event.preventDefault()
    drop.classList.remove("over")
    if (event.dataTransfer.files.length) choose(where, event.dataTransfer.files)
  })
}

// --- jobs ---

const running = () => [...state.jobs.values()].find(job => ["waiting", "running"].includes(job.state))
const isLong = job => ["full", "clip"].includes(job?.kind)
const isReady = () => state.content && state.styles.length

// Start a preview soon, from the image there is or, when images changed, anew.
function changed({anew = false} = {}) {
  if (!isReady()) return
  const job = running()
  if (isLong(job)) {  // a preview would end it
    $("note").textContent = "The full image is rendered with the settings it started with. Stop it to try others."
    $("note").hidden = false
    return
  }
  if (anew) state.shown = null
  clearTimeout(timer)
  timer = setTimeout(() => start("preview").catch(report), WAIT)
  estimate()
}

function restart() {
  closeSheet()
  stopComparing()
  changed({anew: true})
  drawActions()
  drawRender({})
}

async function start(kind, settings = controls.read(), previous = state.shown) {
  const wrong = controls.showInvalid()
  if (wrong) throw new Error(wrong)
  clearErrors()
  const size = kind === "full" || kind === "clip" ? readSize() : {}
  const job = await call(`/api/tabs/${tab}/jobs`, {
    kind, content: state.content.id, styles: state.styles.map(style => style.id), masks: state.masks,
    settings: {...settings, ...size}, previous: kind === "preview" ? previous : null,
  })
  state.pinned = null
  if (kind !== "variation") { closeSheet(); stopComparing() }
  if (!state.jobs.has(job.id)) update([job])  // else there is newer news of it
  return job.id
}

// Take in what the server says about jobs.
function update(jobs) {
  for (const news of jobs) {
    const job = {...(state.jobs.get(news.id) ?? {}), ...news}
    state.jobs.set(news.id, job)
    if (job.kind === "variation") drawVariation(job)
    else if (job.preview !== job.drawn && job.preview) draw(job)
    if (job.state === "failed") report(new Error(job.error))
    if (job.state === "done") finish(job)
  }
  if (jobs.length) drawState()
}

// Show the jobs of a tab that was reloaded.
function restoreJobs(jobs) {
  for (const job of jobs) {
    state.jobs.set(job.id, {...job, drawn: job.preview})
    if (job.state === "done") finish(state.jobs.get(job.id))
  }
  const last = running() ?? [...state.jobs.values()].filter(isInHistory).at(-1)
  if (last) restoreResult(last.id)
  if (running()) state.pinned = null
}

function draw(job) {
  job.drawn = job.preview
  if (state.compared || (state.pinned && state.pinned !== job.id)) return
  if (job.kind === "clip" && job.state === "done") return
  state.shown = job.id
  const before = thumbnail(job.content, Math.min(4096, Math.max(...job.size)))
  const image = new Image()
  image.onload = () => { if (state.shown === job.id && !state.compared) stage.show(image.src, job.size, before) }
  image.src = `/api/jobs/${job.id}/preview?${job.preview}`
}

function finish(job) {
  if (job.finished) return
  job.finished = true
  if (isInHistory(job)) addHistory(job)
  if (job.kind === "clip" && state.shown === job.id) play(job)
  estimate()
}

const isInHistory = job => job.state === "done" && job.kind !== "variation" && (job.complete || job.kind !== "preview")

function play(job) {
  $("player").src = `/api/jobs/${job.id}/file`
  $("player").hidden = false
}

function drawState() {
  const job = running(), shown = state.jobs.get(job?.id ?? state.shown)
  $("progress").hidden = !shown
  $("stop").hidden = !job
  if (shown) {
    $("status").textContent = describe(shown)
    const bar = $("progress").querySelector("progress"), {fraction} = shown
    if (shown.state === "waiting") bar.removeAttribute("value")
    else bar.value = shown.state === "running" ? fraction ?? 0 : 1
    bar.setAttribute("aria-label", "Progress")
    drawCurve(shown)
  }
  drawActions()
}

function describe(job) {
  const {iteration, iterations, left, seconds} = job.progress
  const what = {preview: "Preview", full: "Full quality", variation: "Variations", clip: "Clip"}[job.kind]
  if (job.state === "waiting") {
    return job.place ? `Waiting for ${job.place} other image${job.place > 1 ? "s" : ""}` + (job.starts_in ? `, starts in about ${duration(job.starts_in)}` : "") : "Starting …"
  }
  const size = job.size ? `, ${job.size[0]}×${job.size[1]} px` : ""
  if (job.state === "running") {
    const unit = job.kind === "clip" ? "frame" : "iteration"
    const at = iterations ? `, ${unit} ${iteration} of ${iterations}` : ""
    return `${what}${size}${at}${left != null ? `, about ${duration(left)} left` : ""}`
  }
  if (job.state === "failed") return `${what} failed`
  if (job.state === "canceled") return `${what} stopped`
  if (state.variations.includes(job.id)) return "Click one to continue with it"
  const output = job.output ? `, saved as ${job.output}` : ""
  return `${what} ${job.complete ? "done" : "stopped"}${size}, ${duration(seconds ?? 0)}${output}`
}

const duration = seconds => seconds < 100 ? `${Math.max(1, Math.round(seconds))} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`

function drawCurve(job) {
  job.losses ??= []
  const {loss} = job.progress
  if (loss > 0 && loss !== job.losses.at(-1)) job.losses.push(loss)
  $("curve").hidden = job.losses.length < 2
  if ($("curve").hidden) return
  const logs = job.losses.map(Math.log), low = Math.min(...logs), range = Math.max(Math.max(...logs) - low, 1e-9)
  const points = logs.map((value, i) => `${300 * i / (logs.length - 1)},${2 + 76 * (1 - (value - low) / range)}`).join(" ")
  const svg = $("curve").querySelector("svg")
  svg.setAttribute("aria-label", `Loss from ${job.losses[0].toPrecision(3)} to ${loss.toPrecision(3)}`)
  svg.innerHTML = `<polyline points="${points}" fill="none" stroke="currentColor" stroke-width="1.5" vector-effect="non-scaling-stroke"/>`
}

function drawActions() {
  const job = running(), shown = state.jobs.get(state.shown), isClip = state.content?.clip
  $("render").disabled = !isReady() || isLong(job)
  $("masks-toggle").disabled = !isReady() || !stage.size || isClip
  $("variations").disabled = !isReady() || isClip || isLong(job)
  const isDone = shown?.state === "done" && !job
  $("download").hidden = !isDone
  $("copy").hidden = !isDone || !shown.command
  if (isDone) $("download").href = `/api/jobs/${shown.id}/file`
  $("compare").disabled = $("history").children.length < 2
  for (const button of $("history").children) button.setAttribute("aria-current", button.dataset.job === state.shown)
}

// --- the size of the full image ---

// Offer sizes for the content image: smaller ones, its own, and larger ones.
function offerSizes({size, enlarge = false} = {}) {
  const own = state.content ? Math.max(...state.content.size) : Infinity, most = state.content?.clip ? own : setup.largest
  const sizes = [...new Set([...setup.sizes, own, size ?? own])].filter(one => one <= Math.min(most, setup.largest))
  sizes.sort((a, b) => a - b)
  const wanted = size ?? DEFAULT_SIZE
  const chosen = enlarge ? wanted : sizes.findLast(one => one <= Math.min(wanted, own)) ?? sizes[0]
  $("size").replaceChildren(...sizes.map(one => {
    const note = one > own ? " (enlarged)" : one === own ? " (its size)" : ""
    return new Option(`${one} px${note}`, one, one === chosen, one === chosen)
  }))
}

function readSize() {
  const size = Number($("size").value)
  return state.content && size > Math.max(...state.content.size) ? {size, enlarge: true} : {size}
}

async function estimate() {
  if (!isReady() || !controls.isValid) return drawRender({})
  try {
    drawRender(await call(`/api/tabs/${tab}/estimate`, {
      content: state.content.id, styles: state.styles.map(style => style.id), settings: {...controls.read(), enlarge: true},
      sizes: [...$("size").options].map(option => Number(option.value)),
    }))
  } catch { drawRender({}) }  // the preview shows what is wrong
}

function drawRender(seconds) {
  const size = $("size").value, time = seconds[size], isClip = state.content?.clip
  state.estimates = seconds
  $("render").textContent = `${isClip ? "Render clip" : "Render full quality"} (${size} px${time && !isClip ? `, about ${duration(time)}` : ""})`
}

// --- four variations ---

async function tryFour() {
  const settings = controls.read(), log = -Math.log10(settings.beta ?? setup.balance.beta)
  const scale = settings.style_scale ?? 1
  const four = [
    ["More content", {beta: Number((10 ** -(log + 0.5)).toPrecision(3))}],
    ["More style", {beta: Number((10 ** -(log - 0.7)).toPrecision(3))}],
    ["Finer strokes", {style_scale: Number((scale / 2).toPrecision(3))}],
    ["Bolder strokes", {style_scale: Number((scale * 1.5).toPrecision(3))}],
  ]
  clearTimeout(timer)
  await call(`/api/tabs/${tab}/stop`, {})
  stopComparing()
  $("sheet").replaceChildren(...four.map(([name]) => {
    const button = document.createElement("button"), image = new Image(), label = document.createElement("span")
    button.type = "button"
    button.disabled = true
    image.alt = ""
    label.textContent = name
    button.append(image, label)
    return button
  }))
  $("sheet").hidden = false
  state.variations = []
  for (const [i, [, change]] of four.entries()) {
    const chosen = {...settings, alpha: 1, ...change}
    const id = await start("variation", chosen)
    if (!id) return closeSheet()
    state.variations.push(id)
    drawVariation(state.jobs.get(id))
    $("sheet").children[i].addEventListener("click", () => {
      controls.fill(chosen)
      closeSheet()
      call(`/api/tabs/${tab}/stop`, {}).then(() => start("preview", controls.read(), id)).catch(report)
    })
  }
}

function drawVariation(job) {
  const button = $("sheet").children[state.variations.indexOf(job.id)]
  if (!button || !job.preview) return
  button.disabled = false
  button.querySelector("img").src = `/api/jobs/${job.id}/preview?${job.preview}`
}

function closeSheet() {
  $("sheet").hidden = true
  state.variations = []
}

// --- history ---

function addHistory(job) {
  const button = document.createElement("button"), image = new Image()
  image.src = `/api/jobs/${job.id}/preview?size=200`
  image.alt = `${job.content.name} in ${styleNames(job)}, ${job.size.join("×")} px`
  const settings = describeSettings(job)
  button.title = [image.alt, ...(settings.length ? settings : ["default settings"])].join("\n")
  button.type = "button"
  button.dataset.job = job.id
  button.append(image)
  if (job.kind !== "preview") {
    const mark = document.createElement("span")
    mark.textContent = job.kind === "clip" ? "clip" : "full"
    button.append(mark)
  }
  button.addEventListener("click", () => state.isComparing ? compareWith(job.id) : restoreResult(job.id))
  $("history").prepend(button)
  $("history-title").hidden = false
}

function restoreResult(id) {
  const job = state.jobs.get(id)
  closeSheet()
  stopComparing()
  $("player").hidden = true
  Object.assign(state, {content: job.content, styles: job.styles, masks: job.masks, shown: id, pinned: id})
  showInputs(job.settings)
  controls.fill(job.settings)
  if (job.kind === "clip" && job.state === "done") play(job)
  else if (job.preview) draw(job)
  drawState()
  estimate()
}

function compareWith(id) {
  const first = state.jobs.get(state.shown), second = state.jobs.get(id)
  if (!first || first === second) return
  state.compared = id
  stage.show(`/api/jobs/${second.id}/preview?${second.version}`, first.size, `/api/jobs/${first.id}/preview?${first.version}`)
  stage.sideBySide([first, second].map(labelResult))
}

// What tells results apart, to be read beside another's.
function labelResult(job) {
  return [styleNames(job), `${job.size[0]} px`, ...describeSettings(job, ["alpha", "size", "enlarge"])].join(", ")
}

const styleNames = job => job.styles.map(style => style.name).join(" + ")

// Return the settings of a job that differ from the defaults, in words.
function describeSettings(job, hidden = []) {
  const settings = Object.entries(job.settings).filter(([name]) => !hidden.includes(name))
  return [...settings.map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`), ...(job.masks ? ["masks"] : [])]
}

function toggleComparing() {
  if (state.isComparing) return stopComparing()
  closeSheet()
  state.isComparing = true
  $("compare").setAttribute("aria-pressed", true)
  const other = [...state.jobs.values()].filter(job => job.finished && job.id !== state.shown && job.kind !== "variation").at(-1)
  if (other) compareWith(other.id)
}

function stopComparing() {
  state.isComparing = false
  $("compare").setAttribute("aria-pressed", false)
  if (!state.compared) return
  state.compared = null
  stage.sideBySide(null)
  const shown = state.jobs.get(state.shown)
  if (shown) draw(shown)
}

// --- start ---

async function main() {
  stage = new Stage()
  setup = await call("/api/setup")
  const earlier = sessionStorage.getItem("tab")
  tab = (await call("/api/tabs", {tab: earlier})).tab
  sessionStorage.setItem("tab", tab)
  controls = new Controls(setup, () => changed())
  masks = new Masks(stage, async () => {
    const blob = await masks.blob()
    state.masks = blob && (await upload(new File([blob], "masks.png"))).id
    changed()
  })
  stage.isDrawing = () => masks.isShown
  stage.clear(WELCOME)
  masks.offer(1)
  $("size").addEventListener("change", () => drawRender(state.estimates ?? {}))
  offerSizes()
  drawRender({})
  for (const where of ["content", "styles"]) {
    connectInput(where)
    connectDrop($(where), where)
  }
  connectDrop(stage.element, "content")
  for (const name of ["dragover", "drop"]) document.addEventListener(name, event => event.preventDefault())  // the browser would open the file
  addGallery("contents", setup.contents, setContent)
  addGallery("styles-gallery", setup.styles, source => setStyles([source]))
  document.addEventListener("paste", event => {
    const files = [...event.clipboardData.files]
    if (files.length) choose(state.content ? "styles" : "content", files)
  })
  $("render").addEventListener("click", () => {
    clearTimeout(timer)
    start(state.content.clip ? "clip" : "full").catch(report)
  })
  $("stop").addEventListener("click", () => call(`/api/tabs/${tab}/stop`, {}).catch(report))
  $("variations").addEventListener("click", () => tryFour().catch(report))
  $("compare").addEventListener("click", toggleComparing)
  $("copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(state.jobs.get(state.shown).command)
    $("copy").textContent = "Copied"
    setTimeout(() => { $("copy").textContent = "Copy command" }, 1500)
  })
  // A click leaves the keys to the image; whoever moves by keyboard keeps the focus.
  document.addEventListener("click", event => { if (event.detail) event.target.closest("button")?.blur() })
  const events = new EventSource(`/api/tabs/${tab}/events`)
  let take = tab === earlier ? restoreJobs : update
  events.onmessage = event => {
    take(JSON.parse(event.data))
    take = update
  }
  events.onopen = () => { if ($("error").textContent.startsWith("The server")) $("error").hidden = true }
  events.onerror = () => report(new TypeError())
}

main().catch(report)
