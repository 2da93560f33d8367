/*
 * `data` is passed on as the publisher wrote it: 2^63 keeps its digits, "\u00e9" its escape, an object its order and
 * its doubles. JSON.parse loses all of that, so these functions walk the text beside it. They expect text that
 * JSON.parse has accepted, and therefore check nothing themselves.
 */

/** [start, end) in the text. */
export interface Slice {
  readonly start: number;
  readonly end: number;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

const isSpace = (code: number) => code === 0x20 || code === 0x0a || code === 0x0d || code === 0x09;
const isOpening = (code: number) => code === 0x7b || code === 0x5b;
const isClosing = (code: number) => code === 0x7d || code === 0x5d;

function skipSpace(text: string, at: number): number {
  while (isSpace(text.charCodeAt(at))) at += 1;
  return at;
}

/** The index after the string that begins at `at`. */
function skipString(text: string, at: number): number {
  for (let i = at + 1; ; i += 1) {
    const code = text.charCodeAt(i);
    if (code === BACKSLASH) i += 1;
    else if (code === QUOTE) return i + 1;
  }
}

/** The index after the value that begins at `at`. Counts brackets instead of recursing: depth is the sender's choice. */
function skipValue(text: string, at: number): number {
  let depth = 0;
  for (let i = at; i < text.length;) {
    const code = text.charCodeAt(i);
    if (code === QUOTE) {
      i = skipString(text, i);
      if (depth === 0) return i;
    } else if (isOpening(code)) {
      depth += 1;
      i += 1;
    } else if (isClosing(code)) {
      if (depth === 0) return i;
      depth -= 1;
      i += 1;
      if (depth === 0) return i;
    } else if (depth === 0 && (code === 0x2c || isSpace(code))) {
      return i;
    } else {
      i += 1;
    }
  }
  return text.length;
}

/** The members of the object that begins at or after `at`, in order, doubles included. */
export function members(text: string, at = 0): { name: string; value: Slice }[] {
  const found: { name: string; value: Slice }[] = [];
  let i = skipSpace(text, skipSpace(text, at) + 1);
  while (text.charCodeAt(i) === QUOTE) {
    const nameEnd = skipString(text, i);
    const name = String(JSON.parse(text.slice(i, nameEnd)));
    const start = skipSpace(text, skipSpace(text, nameEnd) + 1);
    const end = skipValue(text, start);
    found.push({ name, value: { start, end } });
    const next = skipSpace(text, end);
    if (text.charCodeAt(next) !== 0x2c) break;
    i = skipSpace(text, next + 1);
  }
  return found;
}

/** The elements of the array that begins at or after `at`. */
export function elements(text: string, at = 0): Slice[] {
  const found: Slice[] = [];
  let start = skipSpace(text, skipSpace(text, at) + 1);
  while (start < text.length && !isClosing(text.charCodeAt(start))) {
    const end = skipValue(text, start);
    found.push({ start, end });
    const next = skipSpace(text, end);
    if (text.charCodeAt(next) !== 0x2c) break;
    start = skipSpace(text, next + 1);
  }
  return found;
}

/**
 * The value without the white space between its tokens, and its depth: 0 for a scalar, 1 for `[]`, 2 for `[[]]`.
 * Without that white space no CR or LF is left in it, so that it fits one `data:` line of an event.
 */
export function compact(
  text: string,
  slice: Slice = { start: 0, end: text.length },
): { text: string; depth: number } {
  let kept = '';
  let from = slice.start;
  let depth = 0;
  let deepest = 0;
  for (let i = slice.start; i < slice.end;) {
    const code = text.charCodeAt(i);
    if (code === QUOTE) {
      i = skipString(text, i);
      continue;
    }
    if (isSpace(code)) {
      kept += text.slice(from, i);
      i = skipSpace(text, i);
      from = i;
      continue;
    }
    if (isOpening(code)) deepest = Math.max(deepest, (depth += 1));
    else if (isClosing(code)) depth -= 1;
    i += 1;
  }
  return { text: kept + text.slice(from, slice.end), depth: deepest };
}
