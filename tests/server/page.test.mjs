// SPDX-License-Identifier: MIT
// The page in a headless Chromium, which is driven through its debugging pipe. PROMPTKV_SCREENSHOT names a
// file for a picture of it.
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { start, until } from './server.mjs'

const name = ['chromium', 'chromium-browser', 'google-chrome'].find(each => spawnSync(each, ['--version']).status === 0)

/// One tab. `evaluate` runs an expression in the page; `errors` is what went wrong there.
async function browse(t, url, width, height) {
  const profile = mkdtempSync(join(tmpdir(), 'promptkv-page-'))
  const child = spawn(name, ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
    '--disable-background-networking', '--remote-debugging-pipe', `--user-data-dir=${profile}`, 'about:blank'],
  { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] })
  const [, , , to, from] = child.stdio
  const waiting = new Map(), errors = []
  let held = '', last = 0, session
  from.setEncoding('utf8')
  from.on('data', data => {
    const messages = (held + data).split('\0')
    held = messages.pop()
    for (const message of messages.map(each => JSON.parse(each))) {
      waiting.get(message.id)?.(message)
      if (message.method === 'Runtime.exceptionThrown') errors.push(message.params.exceptionDetails.exception?.description)
      if (message.method === 'Log.entryAdded' && message.params.entry.level === 'error') errors.push(message.params.entry.text)
    }
  })
  const send = (method, params = {}) => new Promise((resolve, reject) => {
    waiting.set(++last, ({ result, error }) => error ? reject(new Error(error.message)) : resolve(result))
    to.write(JSON.stringify({ id: last, method, params, sessionId: session }) + '\0')
  })
  const { targetInfos } = await send('Target.getTargets')
  const { targetId } = targetInfos.find(each => each.type === 'page')
  session = (await send('Target.attachToTarget', { targetId, flatten: true })).sessionId
  await send('Runtime.enable')
  await send('Log.enable')
  await send('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: width < 600 })
  await send('Page.navigate', { url })
  const evaluate = async expression => {
    const { result, exceptionDetails } = await send('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true })
    assert.equal(exceptionDetails, undefined, exceptionDetails?.exception?.description)
    return result.value
  }
  const key = async (code, text) => {
    await send('Input.dispatchKeyEvent', { type: 'keyDown', key: code, code, windowsVirtualKeyCode: code === 'Tab' ? 9 : 13, text })
    await send('Input.dispatchKeyEvent', { type: 'keyUp', key: code, code })
  }
  const picture = async () => Buffer.from((await send('Page.captureScreenshot', { format: 'png' })).data, 'base64')
  t.after(async () => {
    const gone = new Promise(resolve => child.on('exit', resolve))
    send('Browser.close').catch(() => {})
    await gone
    rmSync(profile, { recursive: true, force: true })
  })
  await until(() => evaluate("document.readyState === 'complete' && location.href !== 'about:blank'"))
  return { evaluate, key, picture, errors }
}

test('the page shows how much of each answer came from the cache, and what the cache holds', { skip: name ? false : 'no Chromium here' }, async t => {
  const server = await start(t)
  const page = await browse(t, server.url, 1280, 740)
  const notes = "[...document.querySelectorAll('#log small')].map(each => each.textContent)"
  const say = async text => {
    const before = (await page.evaluate(notes)).length
    await page.evaluate(`document.getElementById('text').value = ${JSON.stringify(text)}; document.getElementById('text').focus()`)
    await page.key('Enter', '\r') // as a person does who has no mouse
    await until(async () => (await page.evaluate(notes)).length > before)
    return (await page.evaluate(notes)).at(-1)
  }
  assert.match(await say('Once upon a time, there was a cat.'), /^0 of \d+ prompt tokens .*nothing shared/)
  const second = /^(\d+) of (\d+) prompt tokens from the cache/.exec(await say('Then came a dog.'))
  assert.ok(Number(second[1]) > 0 && Number(second[1]) < Number(second[2]))

  await page.evaluate("document.getElementById('play').click()")
  await until(() => page.evaluate("!document.getElementById('play').disabled"))
  await until(async () => await page.evaluate("document.querySelectorAll('#tree span').length") > 10)
  const { count } = (await server.call('GET', '/cache')).json
  await until(async () => await page.evaluate("document.querySelectorAll('#entries tr').length") === count)

  // A smaller budget, set with the slider: evictions are seen.
  const { bytes, most_bytes: most } = (await server.call('GET', '/cache')).json
  await page.evaluate(`const budget = document.getElementById('budget'); budget.value = ${Math.floor(800 * bytes / most)}; budget.dispatchEvent(new Event('change'))`)
  await until(() => page.evaluate("document.getElementById('tree').classList.contains('evicting') && Number(document.getElementById('evictions-now').textContent) > 0"))
  await until(async () => (await server.call('GET', '/cache')).json.bytes < bytes)
  if (process.env.PROMPTKV_SCREENSHOT) writeFileSync(process.env.PROMPTKV_SCREENSHOT, await page.picture())

  // Each control has a name and can be reached with the keyboard.
  const unnamed = await page.evaluate("[...document.querySelectorAll('button, input, textarea')].filter(each => !each.labels?.length && !each.ariaLabel && !each.textContent.trim()).map(each => each.id)")
  assert.deepEqual(unnamed, [])
  await page.evaluate("document.activeElement.blur()")
  const reached = new Set()
  for (let i = 0; i < 14; ++i) {
    await page.key('Tab')
    reached.add(await page.evaluate('document.activeElement.id'))
  }
  for (const id of ['system', 'text', 'send', 'new', 'forget', 'play', 'budget']) assert.ok(reached.has(id), id)
  assert.deepEqual(page.errors, [])

  const phone = await browse(t, server.url, 390, 800)
  assert.ok(await phone.evaluate('document.documentElement.scrollWidth <= window.innerWidth'), 'nothing is cut off on a phone')
  assert.deepEqual(phone.errors, [])
})
