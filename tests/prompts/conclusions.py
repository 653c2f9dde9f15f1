"""Reasonings, and whether they conclude the option B.

`{x}` stands for one of `FORMS`; the options of those are brain, knee, lung and liver.
"""

ORGANS = ("brain", "knee", "lung", "liver")
FINDINGS = ("Pneumonia", "Pneumothorax", "Pleural effusion", "Normal")
FORMS = ("knee", "the knee", "a knee", "B", "option B", "(B)", "B) knee", "the answer B")

# Whatever stands for B, it is denied, hedged, asked about, or one of several.
DENYING = """\
{x} is wrong.
I exclude {x}.
It is anything but {x}.
This is hardly {x}.
This is not {x}.
It isn't {x}.
It can't be {x}.
I rule out {x}.
{x} can be ruled out.
{x} is excluded.
{x} is unlikely.
I would never choose {x}.
I do not think it is {x}.
I doubt that it is {x}.
There is no reason to choose {x}.
Nothing suggests {x}.
{x}? No.
Is it {x}?
It is {x}. No, that is wrong.
It is {x}. Wait, no.
If it were {x}, the joint would show.
It could be {x}.
Perhaps it is {x}.
It might be {x}, I am not sure.
Everything except {x} fits.
All but {x} fit.
{x} is the wrong answer.
The answer is not {x}.
The answer cannot be {x}.
{x} is incorrect.
{x} does not fit.
{x} fails to explain it.
One would say {x}.
It is far from {x}.
Unlike {x}, it is bright.
I reject {x}.
{x} must be rejected.
{x} is impossible.
At first I thought {x}.
It lacks what {x} would show.
{x} - no.
{x}: incorrect.
Neither {x} nor anything else.
It is false that it is {x}.
It would be a mistake to choose {x}.
{x} is contradicted by the image.
I eliminate {x}.
I can't see {x}.
I see no sign of {x}.
The opposite of {x}.
{x} is the least likely.
It is wrong to say that it is {x}.
I disagree with {x}.
Brain, {x} and liver are excluded.
I exclude brain, {x}, and liver.
Not brain, not {x}.
{x}, brain and liver are wrong.
Either brain or {x}.
It is {x} or lung.
Choosing {x} would be wrong.
{x} seems tempting.
The image speaks against {x}.
There is little evidence for {x}.
This is no {x}.
I was wrong to choose {x}.
Don't answer {x}.
{x} would be the naive choice.
{x} is what a careless reader would say.
They say {x}.
Someone answered {x}.
A beginner might take it for {x}.
Had it been {x}, the joint would show.
{x} is outdated.
{x} was my guess.
It only looks like {x} superficially.
The correct answer is anything other than {x}.
It pretends to be {x}.
{x} is ruled out by the signal.
We can safely drop {x}.
This excludes {x}.
This argues against {x}.
We should avoid {x}.
Skip {x}.
{x} is absent.
No {x} is visible.
Without {x}.
That leaves all but {x}.
It is less likely {x}.
It can hardly be {x}.
""".splitlines()

AFFIRMING = """\
The answer is {x}.
This is {x}.
It is {x}.
So it is {x}.
Therefore, the answer is {x}.
Thus {x}.
{x} is correct.
{x} is the correct answer.
I choose {x}.
I would go with {x}.
It must be {x}.
The most likely answer is {x}.
This is {x}, not the lung.
Not the lung, but {x}.
It is not the lung. It is {x}.
The lung is excluded, so it is {x}.
The answer is the lung? No, it is {x}.
Wait, it is {x}.
Final answer: {x}.
It is {x}, without a doubt.
It is {x} rather than the lung.
The joint is seen. There is no cortex. It is {x}.
It is {x} because no lung is seen.
Although the lung is similar, it is {x}.
I considered the lung first. The answer is {x}.
The best option is {x}.
This shows {x}.
The findings are consistent with {x}.
Everything points to {x}.
The image depicts {x}.
That leaves {x}.
The correct choice is {x}.
All others are wrong, so the answer is {x}.
""".splitlines()

# Of `ORGANS`: the letter concluded.
ALONE: dict[str, str | None] = {
    "The answer is B? No, it is C.": "C",
    "I exclude the answer B.": None,
    "Anything but knee.": None,
    "knee is wrong.": None,
    "This is hardly a knee.": None,
    "This is the knee, not the lung.": "B",
    "Option B is correct.": "B",
    "not A, it is B": "B",
    "the answer is B or C": None,
    "The answer is B... wait, it's C.": "C",
    "Knee.": "B",
    "B.": "B",
    "**B**": "B",
    "\\boxed{B}": "B",
    "I exclude brain and knee.": None,
    "I exclude brain, knee, and lung.": None,
    "The brain, the knee and the lung are excluded.": None,
    "The knee is, however, not shown.": None,
    "Not the lung but the knee.": "B",
    "Not the lung, but the knee.": "B",
    "The lung, not the knee, is correct.": "C",
    "It is not true, I think, that this is the knee.": None,
    "There is no cortex, so this is the knee.": "B",
    "The answer is B because the lung is absent.": "B",
    "The answer is B, as no lung is seen.": "B",
    "It could be the knee, or the lung.": None,
    "The answer is knee, maybe.": None,
    "It is the knee. That is wrong.": None,
    "This is the knee. No fracture is seen.": "B",
    "The answer is A. The answer is B.": None,
    "If it were a knee, the answer would be B.": None,
    "Is it a knee?": None,
    "Knee? No.": None,
    "The answer is B. No.": None,
    "I doubt this is a knee.": None,
    "nothing but the knee": "B",
    "It is the knee and not the lung.": "B",
    "It is a knee rather than a lung.": "B",
    "Rather than a knee, this is a lung.": "C",
    "A knee is seen.": "B",
    "A mass is seen.": None,
    "Neither the knee nor the lung.": None,
    "The lung? No, the knee.": "B",
    "Therefore, B.": "B",
    "So the answer is B, the knee.": "B",
    "I first thought of the lung, but it is the knee.": "B",
    "Excluding the brain, this is the knee.": "B",
    "I exclude brain, which leaves knee.": "B",
    "The answer is not B.": None,
    "Don't pick B.": None,
    "B must be avoided.": None,
    "The answer is (B).": "B",
    "Answer: B": "B",
    "A brain no, B knee yes.": "B",
    "A brain no, B knee yes. But B is wrong.": None,
    "A brain no, B knee yes. No.": None,
    "A brain no, B knee yes. So the answer is C.": None,
    "(A) brain: no. (B) knee: yes. (C) lung: no.": "B",
    "B lines are visible.": None,
    "Kerley B lines": None,
    "The lung shows no opacity. This is the knee.": "B",
    "Knee: no.": None,
    "knee - no": None,
    "Das ist kein knee.": None,
    "Ce n'est pas le knee.": None,
    "It is far from a knee.": None,
    "The knee cannot be excluded.": None,
    "Everything except the knee.": None,
    "The answer is B, no doubt.": "B",
    "The femur meets the tibia. This is a knee.": "B",
    "This is not a lung. This is not a brain. This is a knee.": "B",
    "This is a knee. This is not a lung.": "B",
    "The correct choice is B.": "B",
    "B is correct.": "B",
    "B is the correct answer": "B",
    "I choose B": "B",
    "I would go with B.": "B",
    "A, C and D are wrong; B is right.": "B",
    "A, C and D are wrong, so B.": "B",
    "The most likely answer is B.": "B",
}

# Of `FINDINGS`: none of these concludes B.
FINDINGS_DENYING = """\
The lungs show no pneumothorax.
A pneumothorax would show a visible pleural line, which we do not see.
The costophrenic angles are sharp, so pneumothorax cannot explain them.
Pneumothorax was considered and set aside.
I considered pneumothorax.
Pneumothorax is a trap answer here.
B might tempt the reader.
The distractor here is B.
If I had to guess, B.
My gut says B, my head says otherwise.
Answer B ignores the lung markings.
Option B overlooks the consolidation.
Whoever picks B misses the consolidation.
Choosing B means missing the consolidation.
The pneumothorax hypothesis collapses.
There is insufficient evidence for pneumothorax.
The patient was screened for pneumothorax.
Rule out pneumothorax.
To exclude pneumothorax a lateral view is needed.
Pneumothorax has been ruled out.
History of pneumothorax.
Status post pneumothorax.
Compared with pneumothorax, this is denser.
Pneumothorax is a poor match.
Pneumothorax makes no sense.
It resembles a pneumothorax, yet lung markings reach the wall.
Is this pneumothorax? The markings reach the wall.
B is not supported.
B gets eliminated first.
B: unlikely.
B - rejected.
Not option B!
Definitely not B.
By no means B.
The answer is certainly not B.
No one would call this B.
Do we have a pneumothorax? No.
This rules B out.
The negation of B.
It is tempting to answer B.
B, however, is wrong.
The answer, I am sure, is not B.
While B is often chosen, it is wrong.
The correct answer differs from B.
The answer is B only if the line is pleural.
Anything would be better than B.
A, B and D can be discarded.
Neither A nor B.
The answer is the one before B.
You could say B but that would be wrong.
B was the answer to the previous question.
The example answer is B.
In the other image the answer was B.
It would be B if the marker were on the other side.
Suppose the answer is B.
Consider option B.
The question asks about B.
Options are A, B, C and D.
We must choose among A, B, C and D.
First, B. Then, C.
The label B is printed in the corner.
Do not be fooled by B.
Is B the answer? I do not think so.
Is B the answer? Hardly.
B as the answer is out of the question.
Even if it seems so, the answer is not B.
B would be right if it were mirrored.
B was the first thing I saw.
The answer B is inconsistent with the image.
It is not the case that the answer is B.
Contrary to the answer is B, we see A.
The statement "the answer is B" is false.
The claim that the answer is B is wrong.
He wrote that the answer is B.
The answer is B, said the wrong student.
The answer is B? The answer is B? Unclear.
I am not convinced the answer is B.
We cannot conclude that the answer is B.
There is no way the answer is B.
The answer is B or maybe C.
The answer is B/C.
The answer is B and C.
The answer is B. The answer is C.
The answer is B. However, C fits better.
The answer is B, but I may be wrong.
The answer is B... or not.
The answer is B - just kidding.
The answer is B. Strike that.
The answer is B. Scratch that, it is A.
The answer is B. Correction: A.
The answer is B. Hmm. A.
The answer is B (or is it?).
The answer is anything except B.
""".splitlines()

FINDINGS_AFFIRMING = """\
The pleural line is visible and there are no lung markings beyond it. This is a pneumothorax.
No consolidation is seen. The visible pleural line indicates pneumothorax.
The findings suggest pneumothorax.
A is unlikely because there is no consolidation. C is unlikely because the angles are sharp. B is the best choice.
1. Consolidation: absent. 2. Pleural line: present. Conclusion: pneumothorax.
Therefore the correct answer is option B: Pneumothorax.
The most likely diagnosis is pneumothorax (B).
Answer: B. Pneumothorax
The image shows a pneumothorax.
Hence, B) Pneumothorax.
I conclude that this is a pneumothorax.
This is consistent with pneumothorax rather than pneumonia.
Not pneumonia, but pneumothorax.
I'm confident the answer is B.
The answer must be B.
B it is.
Wait, there is a pleural line. So the answer is B.
The right lung has collapsed, which means pneumothorax.
Based on the absence of lung markings, the answer is B.
Since there are no lung markings peripherally, this is a pneumothorax.
We see a pleural line; pneumothorax.
""".splitlines()
