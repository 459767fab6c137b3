// In place of the theme's script, which is 1.5 MB: a second copy of icons that its
// fonts have already.
