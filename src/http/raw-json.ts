import { TimeSlicer } from '../concurrency/pacing.ts';

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
export async function inTurns<Result>(walk: Generator<void, Result>, slicer: TimeSlicer): Promise<Result> {
  for (;;) {
    const step = walk.next();
    if (step.done === true) return step.value;
    if (slicer.isOver) await slicer.next();
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

/** The index of what is no white space, at or after `at`. */
function* walkSpace(text: string, at: number): Generator<void, number> {
  let i = at;
  for (let pause = i + AT_ONCE; isSpace(text.charCodeAt(i)); i += 1) {
    if (i < pause) continue;
    yield;
    pause = i + AT_ONCE;
  }
  return i;
}

/** The index after the string that begins at `at`. */
function* walkString(text: string, at: number): Generator<void, number> {
  for (let i = at + 1, pause = i + AT_ONCE; i < text.length; i += 1) {
    if (i >= pause) {
      yield;
      pause = i + AT_ONCE;
    }
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
  // In here, since a walk for each of millions of strings would cost more than they do.
  let quoted = false;
  const upTo = (end: number): Part => {
    if (depth > 0 || quoted || end === at) throw wrongAt(end);
    return { start: at, end, values };
  };
  for (let i = at, pause = at + AT_ONCE; i < text.length; i += 1) {
    if (i >= pause) {
      yield;
      pause = i + AT_ONCE;
    }
    const code = text.charCodeAt(i);
    if (quoted) {
      if (code === BACKSLASH) i += 1;
      else if (code === QUOTE) {
        quoted = false;
        if (depth === 0) return upTo(i + 1);
      }
    } else if (code === QUOTE) {
      quoted = true;
    } else if (isOpening(code)) {
      depth += 1;
      values += 1;
    } else if (isClosing(code)) {
      if (depth === 0) return upTo(i);
      depth -= 1;
      if (depth === 0) return upTo(i + 1);
    } else if (depth === 0 && (code === COMMA || isSpace(code))) {
      return upTo(i);
    } else if (code === COMMA) {
      values += 1;
    }
  }
  return upTo(text.length);
}

/** The one value of the text. @throws SyntaxError if there is more than white space behind it */
export function* walkRoot(text: string): Generator<void, Part> {
  const root = yield* walkValue(text, yield* walkSpace(text, 0));
  const rest = yield* walkSpace(text, root.end);
  if (rest < text.length) throw wrongAt(rest);
  return root;
}

/** The members of the object that begins at or after `at`, in order, doubles included; the first `most` if there are more. */
export function* walkMembers(text: string, at = 0, most = Infinity): Generator<void, Member[]> {
  const found: Member[] = [];
  let i = yield* walkSpace(text, (yield* walkSpace(text, at)) + 1);
  if (text.charCodeAt(i) === 0x7d) return found;
  for (let pause = i + AT_ONCE; found.length < most;) {
    if (text.charCodeAt(i) !== QUOTE) throw wrongAt(i);
    const nameEnd = yield* walkString(text, i);
    const name = String(JSON.parse(text.slice(i, nameEnd)));
    const colon = yield* walkSpace(text, nameEnd);
    if (text.charCodeAt(colon) !== COLON) throw wrongAt(colon);
    const value = yield* walkValue(text, yield* walkSpace(text, colon + 1));
    found.push({ name, value });
    const next = yield* walkSpace(text, value.end);
    const code = text.charCodeAt(next);
    if (code === 0x7d) break;
    if (code !== COMMA) throw wrongAt(next);
    i = yield* walkSpace(text, next + 1);
    if (i < pause) continue;
    yield;
    pause = i + AT_ONCE;
  }
  return found;
}

/** The elements of the array that begins at or after `at`; the first `most` if there are more. */
export function* walkElements(text: string, at = 0, most = Infinity): Generator<void, Part[]> {
  const found: Part[] = [];
  let start = yield* walkSpace(text, (yield* walkSpace(text, at)) + 1);
  if (text.charCodeAt(start) === 0x5d) return found;
  for (let pause = start + AT_ONCE; found.length < most;) {
    const part = yield* walkValue(text, start);
    found.push(part);
    const next = yield* walkSpace(text, part.end);
    const code = text.charCodeAt(next);
    if (code === 0x5d) break;
    if (code !== COMMA) throw wrongAt(next);
    start = yield* walkSpace(text, next + 1);
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

/** A value without the white space between its tokens. */
export interface Compact {
  /** Empty if `size` is more than was allowed. */
  readonly text: string;
  /** In bytes of UTF-8. */
  readonly size: number;
  /** 0 for a scalar, 1 for `[]`, 2 for `[[]]`. */
  readonly depth: number;
}

/**
 * The value without the white space between its tokens, so that no CR or LF is left in it and it fits one `data:` line of an
 * event.
 * @param most bytes that it may have; beyond them it is only counted
 */
export function* walkCompact(text: string, slice: Slice, most = Infinity): Generator<void, Compact> {
  const parts: string[] = [];
  // Of this step. Joined at its end: millions of them are neither to be kept nor to be joined at once.
  let step: string[] = [];
  let kept = 0;
  let from = slice.start;
  const keepUpTo = (end: number) => {
    if (end === from) return;
    kept += end - from;
    // A character has at least one byte.
    if (kept <= most) step.push(text.slice(from, end));
  };
  let depth = 0;
  let deepest = 0;
  let quoted = false;
  for (let i = slice.start, pause = i + AT_ONCE; i < slice.end; i += 1) {
    if (i >= pause) {
      parts.push(step.join(''));
      step = [];
      yield;
      pause = i + AT_ONCE;
    }
    const code = text.charCodeAt(i);
    if (quoted) {
      if (code === BACKSLASH) i += 1;
      else if (code === QUOTE) quoted = false;
    } else if (code === QUOTE) {
      quoted = true;
    } else if (isSpace(code)) {
      keepUpTo(i);
      from = i + 1;
    } else if (isOpening(code)) deepest = Math.max(deepest, (depth += 1));
    else if (isClosing(code)) depth -= 1;
  }
  keepUpTo(slice.end);
  const spaces = slice.end - slice.start - kept;
  const size = Buffer.byteLength(text.slice(slice.start, slice.end)) - spaces;
  return { text: size > most ? '' : [...parts, ...step].join(''), size, depth: deepest };
}

/** @see walkCompact */
export const compact = (text: string): Compact => atOnce(walkCompact(text, { start: 0, end: text.length }));
