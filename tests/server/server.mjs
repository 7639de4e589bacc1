// SPDX-License-Identifier: MIT
// Starts the server that PROMPTKV_LLAMA_SERVER names, on a free port.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'

/// It runs until the test `t` has ended, or the tests of the file; it must end without an error then.
export async function start(t, ...options) {
  const child = spawn(process.env.PROMPTKV_LLAMA_SERVER,
    ['--port', '0', '--threads', '1', '--cache-ram', '64', ...options], { stdio: ['ignore', 'pipe', 'inherit'] })
  const url = await new Promise((resolve, reject) => {
    createInterface(child.stdout).on('line', line => {
      const found = / at (http:\S+)/.exec(line)
      if (found) resolve(found[1])
    })
    child.on('exit', code => reject(new Error(`the server ended with ${code}`)))
    child.on('error', reject)
  })
  const stop = async () => {
    assert.equal(child.exitCode, null, 'the server runs until it is told to end')
    const ended = new Promise(resolve => child.on('exit', (code, signal) => resolve(code ?? signal)))
    child.kill('SIGTERM')
    assert.equal(await ended, 0)
  }
  if (t) t.after(stop)
  const call = async (method, path, body, headers = {}) => {
    const reply = await fetch(url + path,
      { method, headers, body: body === undefined || typeof body === 'string' ? body : JSON.stringify(body) })
    const text = await reply.text()
    let json
    try { json = JSON.parse(text) } catch {}
    return { status: reply.status, text, json, headers: reply.headers }
  }
  return { url, port: Number(new URL(url).port), pid: child.pid, stop, call }
}

export const system = 'You tell stories for children. The stories are short and kind, and about animals and friends.'

/// A chat with a short answer that is always the same.
export const chat = (text, more = {}) => ({
  messages: [{ role: 'system', content: system }, { role: 'user', content: text }], max_tokens: 4, temperature: 0, ...more
})

/// Waits until `question()` answers true: the server works on threads of its own.
export async function until(question) {
  while (!await question()) await new Promise(resolve => setTimeout(resolve, 20))
}
