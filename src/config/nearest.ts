/** The candidate that `word` is most likely a slip of, or `undefined` where none is close. Pure. */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  const [best] = candidates
    .map((candidate) => ({ candidate, limit: Math.ceil(candidate.length / 3) }))
    .filter(({ candidate, limit }) => Math.abs(candidate.length - word.length) <= limit)
    .map((entry) => ({ ...entry, distance: editDistance(word, entry.candidate) }))
    .filter(({ distance, limit }) => distance <= limit)
    .sort((a, b) => a.distance - b.distance);
  return best?.candidate;
}

/** How many letters must be added, dropped or changed to make `to` of `from`; `-` is `_`, and case counts for none. */
function editDistance(from: string, to: string): number {
  const [source, target] = [plain(from), plain(to)];
  let row = Array.from({ length: target.length + 1 }, (_, index) => index);
  for (const letter of source) {
    const next = [(row[0] ?? 0) + 1];
    for (const [index, other] of target.entries()) {
      const change = (row[index] ?? 0) + (letter === other ? 0 : 1);
      next.push(Math.min(change, (row[index + 1] ?? 0) + 1, (next[index] ?? 0) + 1));
    }
    row = next;
  }
  return row[target.length] ?? 0;
}

const plain = (word: string): string[] => [...word.toLowerCase().replaceAll('-', '_')];
