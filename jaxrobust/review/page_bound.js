// How many labels that nobody has looked at may still be wrong, from answers by suspicion and from
// images drawn at random: a betting confidence sequence without replacement.

const THETAS = [0, 0.1, 0.25, 0.5, 0.8];
const EVIDENCE = 20; // 1 / (1 - confidence)

/**
 * The largest number of wrong labels among the unseen ones, at 95 % whenever one looks.
 *
 * @param total number of labels.
 * @param looks in order, each {isWrong, isDrawn}.
 */
function boundOfRest(total, looks) {
  const found = looks.filter((look) => look.isWrong).length;
  const isExcluded = (m) => {
    let before = 0;
    let bets = THETAS.map(() => 1);
    for (const [seen, { isWrong, isDrawn }] of looks.entries()) {
      const p = (m - before) / (total - seen);
      if (p > 1 || (p === 1 && !isWrong)) return true; // more than are left
      if (isDrawn) {
        bets = bets.map((bet, i) => bet * (isWrong ? THETAS[i] : (1 - THETAS[i] * p) / (1 - p)));
      }
      if (isWrong) before++;
    }
    return bets.reduce((a, b) => a + b, 0) / THETAS.length >= EVIDENCE;
  };
  // What excludes m excludes every larger one.
  let low = found, high = found + total - looks.length + 1;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (isExcluded(middle)) high = middle;
    else low = middle;
  }
  return high - 1 - found;
}

/** A sentence on it; "" where nobody has looked at an image that was drawn. */
function boundText() {
  if (!data.random?.some((index) => entries.get(index)?.[4])) return "";
  const looks = items
    .filter(isAnswered)
    .sort((a, b) => entryOf(a)[2] - entryOf(b)[2])
    .map((item) => ({ isWrong: entryOf(item)[0] !== "keep", isDrawn: entryOf(item)[4] === 1 }));
  const drawn = looks.filter((look) => look.isDrawn).length;
  const rest = data.total - looks.length;
  const most = boundOfRest(data.total, looks);
  const share = percent(most / Math.max(rest, 1));
  return (
    `Of the ${rest} unreviewed labels, at most ${most} (${share}) are wrong, with ` +
    `95 % confidence, from ${counted(drawn, noun)} drawn at random.`
  );
}
