import { Slice as Turn } from './slice.ts';

/*
 * `data` is passed on as the publisher wrote it: 2^63 keeps its digits, "\u00e9" its escape, an object its order and
 * its doubles. JSON.parse loses all of that, so these functions walk the text beside it.
 *
 * They also walk what JSON.parse has not seen yet, to know where its parts are and how large, before anything is made of
 * them. What stands between the parts is checked here, and throws a SyntaxError; the parts are up to JSON.parse.
 *
 * A walk is a generator that gives way now and then: eight megabytes take longer than others should wait.
 */

/** [start, end) in the text. */
export interface Slice {
  readonly start: number;
  readonly end: number;
}

/** A value, and how many there are in it; it is one of them. */
export interface Part extends Slice {
  readonly values: number;
}

export interface Member {
  readonly name: string;
  readonly value: Part;
}

/** To the end of it, at once. */
function atOnce<Result>(walk: Generator<void, Result>): Result {
  for (;;) {
    const step = walk.next();
    if (step.done === true) return step.value;
  }
}

/** To the end of it, and others are served meanwhile. */
export async function inTurns<Result>(walk: Generator<void, Result>, turn: Turn): Promise<Result> {
  for (;;) {
    const step = walk.next();
    if (step.done === true) return step.value;
    if (turn.isOver) await turn.next();
  }
}

/** How many characters are walked without giving way: a tenth of a millisecond. */
const AT_ONCE = 16_384;

const QUOTE = 0x22;
const COMMA = 0x2c;
const COLON = 0x3a;
const BACKSLASH = 0x5c;

const isSpace = (code: number) => code === 0x20 || code === 0x0a || code === 0x0d || code === 0x09;
const isOpening = (code: number) => code === 0x7b || code === 0x5b;
const isClosing = (code: number) => code === 0x7d || code === 0x5d;

/** Worded as JSON.parse does. */
const wrongAt = (at: number) => new SyntaxError(`Unexpected token at position ${at}`);

function skipSpace(text: string, at: number): number {
  while (isSpace(text.charCodeAt(at))) at += 1;
  return at;
}

/** The index after the string that begins at `at`. */
function skipString(text: string, at: number): number {
  for (let i = at + 1; i < text.length; i += 1) {
    const code = text.charCodeAt(i);
    if (code === BACKSLASH) i += 1;
    else if (code === QUOTE) return i + 1;
  }
  throw wrongAt(text.length);
}

/** The value that begins at `at`. Counts brackets instead of recursing: depth is the sender's choice. */
function* walkValue(text: string, at: number): Generator<void, Part> {
  let depth = 0;
  let values = 1;
  const upTo = (end: number): Part => {
    if (depth > 0 || end === at) throw wrongAt(end);
    return { start: at, end, values };
  };
  for (let i = at, pause = at + AT_ONCE; i < text.length;) {
    if (i >= pause) {
      yield;
      pause = i + AT_ONCE;
    }
    const code = text.charCodeAt(i);
    if (code === QUOTE) {
      i = skipString(text, i);
      if (depth === 0) return upTo(i);
    } else if (isOpening(code)) {
      depth += 1;
      values += 1;
      i += 1;
    } else if (isClosing(code)) {
      if (depth === 0) return upTo(i);
      depth -= 1;
      i += 1;
      if (depth === 0) return upTo(i);
    } else if (depth === 0 && (code === COMMA || isSpace(code))) {
      return upTo(i);
    } else {
      if (code === COMMA) values += 1;
      i += 1;
    }
  }
  return upTo(text.length);
}

/** Whether nothing but white space is left behind the value that begins at or after `at`. */
export function* walkRoot(text: string): Generator<void, Part> {
  const root = yield* walkValue(text, skipSpace(text, 0));
  const rest = skipSpace(text, root.end);
  if (rest < text.length) throw wrongAt(rest);
  return root;
}

/** The members of the object that begins at or after `at`, in order, doubles included; the first `most` if there are more. */
export function* walkMembers(text: string, at = 0, most = Infinity): Generator<void, Member[]> {
  const found: Member[] = [];
  let i = skipSpace(text, skipSpace(text, at) + 1);
  if (text.charCodeAt(i) === 0x7d) return found;
  for (let pause = i + AT_ONCE; found.length < most;) {
    if (text.charCodeAt(i) !== QUOTE) throw wrongAt(i);
    const nameEnd = skipString(text, i);
    const name = String(JSON.parse(text.slice(i, nameEnd)));
    const colon = skipSpace(text, nameEnd);
    if (text.charCodeAt(colon) !== COLON) throw wrongAt(colon);
    const value = yield* walkValue(text, skipSpace(text, colon + 1));
    found.push({ name, value });
    const next = skipSpace(text, value.end);
    const code = text.charCodeAt(next);
    if (code === 0x7d) break;
    if (code !== COMMA) throw wrongAt(next);
    i = skipSpace(text, next + 1);
    if (i < pause) continue;
    yield;
    pause = i + AT_ONCE;
  }
  return found;
}

/** The elements of the array that begins at or after `at`; the first `most` if there are more. */
export function* walkElements(text: string, at = 0, most = Infinity): Generator<void, Part[]> {
  const found: Part[] = [];
  let start = skipSpace(text, skipSpace(text, at) + 1);
  if (text.charCodeAt(start) === 0x5d) return found;
  for (let pause = start + AT_ONCE; found.length < most;) {
    const part = yield* walkValue(text, start);
    found.push(part);
    const next = skipSpace(text, part.end);
    const code = text.charCodeAt(next);
    if (code === 0x5d) break;
    if (code !== COMMA) throw wrongAt(next);
    start = skipSpace(text, next + 1);
    if (start < pause) continue;
    yield;
    pause = start + AT_ONCE;
  }
  return found;
}

/** @see walkMembers */
export const members = (text: string, at = 0): Member[] => atOnce(walkMembers(text, at));
/** @see walkElements */
export const elements = (text: string, at = 0): Part[] => atOnce(walkElements(text, at));

/**
 * The value without the white space between its tokens, and its depth: 0 for a scalar, 1 for `[]`, 2 for `[[]]`.
 * Without that white space no CR or LF is left in it, so that it fits one `data:` line of an event.
 */
export function* walkCompact(text: string, slice: Slice): Generator<void, { text: string; depth: number }> {
  let kept = '';
  let from = slice.start;
  let depth = 0;
  let deepest = 0;
  for (let i = slice.start, pause = i + AT_ONCE; i < slice.end;) {
    if (i >= pause) {
      yield;
      pause = i + AT_ONCE;
    }
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

/** @see walkCompact */
export const compact = (text: string): { text: string; depth: number } =>
  atOnce(walkCompact(text, { start: 0, end: text.length }));
